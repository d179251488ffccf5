"""Cuts a CSV file into pieces that end where a record ends, so that each can be parsed by itself.

A quote opens a cell only at its beginning; elsewhere it is an ordinary character. The patterns below run in C over a piece
and never backtrack, so their time is linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ingestd.imports.request import FileProblem

PIECE = 256 << 10
KEPT_OF_LONG = 4 << 10


@dataclass(frozen=True, slots=True)
class Segment:
    """Whole records of the file, as bytes.

    Args:
        data: the records; only the last segment may lack its final line end.
        offset: where they begin in the file, in bytes.
        quoted: a quote stands somewhere in them.
        well_quoted: every quoted cell ends where a cell may end.
        longest: upper bound of the length of its longest record, in bytes.
        cut: set for one record that is too long: its full length in bytes; `data` is only its beginning.
    """

    data: bytes
    offset: int
    quoted: bool = False
    well_quoted: bool = True
    longest: int = PIECE
    cut: int = 0

    @property
    def end(self) -> int:
        """Offset of the first byte after it."""
        return self.offset + (self.cut or len(self.data))


class Grammar:
    """Where cells and records begin and end, for one delimiter."""

    def __init__(self, delimiter: str) -> None:
        sep = re.escape(delimiter.encode())
        opens = rb"(?<![^%s\r\n])" % sep
        literal = rb'(?<=[^%s\r\n])"' % sep
        closed = rb'%s"[^"]*+(?>(?:""[^"]*+)*)"' % opens
        self._strict = re.compile(rb'[^"]*+(?>(?:(?:%s(?=[%s\r\n]|\Z)|%s)[^"]*+)*)' % (closed, sep, literal))
        self._lenient = re.compile(rb'[^"]*+(?>(?:(?:%s|%s)[^"]*+)*)' % (closed, literal))
        bare = rb'[^"\r\n]*+'
        self._record = re.compile(rb"(%s(?>(?:(?:%s|%s)%s)*))(?:\r\n|\n|\r|\Z)" % (bare, closed, literal, bare))
        self._opening = re.compile(rb'%s"|[\r\n]' % opens)

    def open_quote(self, data: bytes, end: int) -> int:
        """Position of a quote that is still open at `end`, or -1."""
        reached = self._lenient.match(data, 0, end).end()  # type: ignore[union-attr]  # it matches, if only nothing
        return -1 if reached == end else int(reached)

    def well_quoted(self, data: bytes, end: int) -> bool:
        """Whether no quote is open at `end` and every quoted cell before it ends where a cell may end."""
        return self._strict.match(data, 0, end).end() == end  # type: ignore[union-attr]  # as above

    def boundary(self, data: bytes) -> tuple[int, bool]:
        """Length of the whole records that `data` begins with (0 if the first one does not end in it); are they well quoted?"""
        end = _last_line_end(data, len(data))
        if end <= 0 or b'"' not in data:
            return max(end, 0), True
        while end > 0:
            if self.well_quoted(data, end):
                return end, True
            quote = self.open_quote(data, end)
            if quote < 0:
                return end, False
            end = _last_line_end(data, quote)
        return 0, True

    def records(self, segment: Segment) -> list[bytes]:
        """The records of a segment without their line ends."""
        if not segment.quoted:
            return segment.data.splitlines()
        data, found, at = segment.data, [], 0
        while at < len(data):
            match = self._record.match(data, at)
            if match is None:  # a quote that never closes: only in the last segment, which the caller refuses
                found.append(data[at:])
                break
            found.append(match[1])
            at = match.end()
        return found

    def next_event(self, data: bytes, at: int) -> tuple[int, bytes]:
        """The next line end or opening quote at or after `at`: its position and byte, or (-1, b"")."""
        match = self._opening.search(data, at)
        return (match.start(), match[0][:1]) if match else (-1, b"")


def _last_line_end(data: bytes, before: int) -> int:
    """Position after the last line end in `data[:before]`; 0 if there is none.

    A carriage return counts only where the next byte is known not to be the newline that belongs to it.
    """
    newline = data.rfind(b"\n", 0, before)
    bare = data.rfind(b"\r", newline + 1, min(before, len(data) - 1))
    return max(newline, bare) + 1


def cut(file: BinaryIO, start: int, grammar: Grammar, limit: int, piece: int = PIECE) -> Iterator[Segment]:
    """Yield the file's segments in order.

    Args:
        file: seekable, binary.
        start: offset of the first record, in bytes.
        limit: a record longer than this many bytes is yielded as its beginning only.

    Raises:
        FileProblem: a quote is never closed.
    """
    file.seek(start)
    offset, buffer = start, b""
    while block := file.read(piece):
        buffer += block
        end, well_quoted = grammar.boundary(buffer)
        if end:
            yield _segment(buffer[:end], offset, well_quoted)
            offset, buffer = offset + end, buffer[end:]
        elif len(buffer) > limit:
            length, rest = _skip(file, buffer, grammar, piece)
            if length < 0:
                raise UnclosedQuote(offset)
            yield Segment(buffer[:KEPT_OF_LONG], offset, longest=length, cut=length)
            offset, buffer = offset + length, rest
    if buffer:
        if b'"' in buffer and grammar.open_quote(buffer, len(buffer)) >= 0:
            raise UnclosedQuote(offset, buffer, grammar)
        yield _segment(buffer, offset, grammar.well_quoted(buffer, len(buffer)))


def _segment(data: bytes, offset: int, well_quoted: bool) -> Segment:
    return Segment(data, offset, b'"' in data, well_quoted, longest=len(data))


class UnclosedQuote(FileProblem):
    """A quote that the file never closes.

    Args:
        offset: where the record (or the whole records before it) begins, in bytes.
        tail: the bytes from there to the end, if they are at hand.
    """

    def __init__(self, offset: int, tail: bytes = b"", grammar: Grammar | None = None) -> None:
        super().__init__("a quote is never closed")
        self.offset = offset
        self.records_before = 0
        if grammar is not None:
            quote = grammar.open_quote(tail, len(tail))
            begins = _last_line_end(tail, quote)
            while begins > 0 and grammar.open_quote(tail, begins) >= 0:
                begins = _last_line_end(tail, grammar.open_quote(tail, begins))
            self.records_before = len(grammar.records(Segment(tail[:begins], offset, quoted=True)))
            self.offset += begins


def _skip(file: BinaryIO, head: bytes, grammar: Grammar, piece: int) -> tuple[int, bytes]:
    """Find the end of a record whose first bytes are `head`.

    Returns:
        Its length in bytes with the line end, and the bytes read beyond it; length -1: a quote in it is never closed.
    """
    # Quotes at the very end may close a cell or be halves of doubled ones: they are left for the walk below.
    known = len(head.rstrip(b'"'))
    quote = grammar.open_quote(head, known) if known else 0
    inside = quote >= 0
    length = quote + 1 if inside else known - 1
    window = head[length:]
    while True:
        done, at, inside = _advance(window, grammar, inside)
        if done:
            return length + at, window[at:]
        length, window = length + at, window[at:]
        block = file.read(piece)
        if not block:
            return (-1, b"") if inside and window != b'"' else (length + len(window), b"")
        window += block


def _advance(window: bytes, grammar: Grammar, inside: bool) -> tuple[bool, int, bool]:
    """Go on within one record: (it ended, position reached, still inside quotes).

    The last byte is left for the next call, which decides by it whether a quote that follows opens a cell. So a quote that
    a window outside of quotes begins with has been judged before: it is an ordinary character.
    """
    at = 0 if inside or window[:1] != b'"' else 1
    while True:
        if inside:
            quote = window.find(b'"', at)
            if quote < 0:
                return False, len(window), True
            if quote + 1 == len(window):
                return False, quote, True
            inside = window[quote + 1 : quote + 2] == b'"'
            at = quote + (2 if inside else 1)
            continue
        position, byte = grammar.next_event(window, at)
        if position < 0:
            return False, max(len(window) - 1, 0), False
        if byte == b'"':
            at, inside = position + 1, True
        elif byte == b"\r" and position + 1 == len(window):
            return False, position, False
        else:
            return True, position + (2 if window[position : position + 2] == b"\r\n" else 1), False
