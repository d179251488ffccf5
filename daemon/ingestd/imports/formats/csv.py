"""Reads CSV into slices of text cells, each row with its record number; what is no row becomes a reject."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv as pacsv

from ingestd.imports.formats.segments import Grammar, Segment, UnclosedQuote, cut
from ingestd.imports.header import Header
from ingestd.imports.rejects import Reject, readable
from ingestd.imports.request import FileProblem

_BOM = b"\xef\xbb\xbf"


@dataclass
class Slice:
    """Some consecutive records of the file.

    Args:
        cells: one array of texts for each label, in header order; null where a null text stood unquoted.
        numbers: record number of each row.
        records: how many records of the file this slice covers, rejected ones included.
        rejects: records that are no rows.
        end: offset in the file after the slice, in bytes.
        raw: the record with a given number, as bytes.
    """

    cells: list[Any]
    numbers: Sequence[int]
    records: int
    end: int
    raw: Callable[[int], bytes]
    rejects: list[Reject] = field(default_factory=list)


class CsvFile:
    """A received CSV file.

    Args:
        path: where its bytes lie.
        header: what its first record says.
        null: cell texts read as null.
        max_record_bytes: a longer record is rejected.
    """

    def __init__(self, path: Path, header: Header, *, null: Sequence[str], max_record_bytes: int) -> None:
        self._path = path
        self._header = header
        self._limit = max_record_bytes
        self._grammar = Grammar(header.delimiter)
        self._names = [str(position) for position in range(len(header.labels))]
        self._convert = pacsv.ConvertOptions(
            column_types=dict.fromkeys(self._names, pa.string()),
            null_values=list(null),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        # First record number and offset of each segment: finds the text of a record again.
        self._index: list[tuple[int, int]] = []

    def slices(self) -> Iterator[Slice]:
        """Yield the whole file, slice by slice.

        Raises:
            FileProblem: a quote is never closed.
        """
        before = 0
        self._index = []
        with self._path.open("rb") as file:
            try:
                for segment in cut(file, self._header.body, self._grammar, self._limit):
                    self._index.append((before, segment.offset))
                    part = self._slice(segment, before)
                    yield part
                    before += part.records
            except UnclosedQuote as problem:
                record = before + problem.records_before + 1
                line = self._line_of(problem.offset)
                raise FileProblem(
                    f"quote never closed: a quoted cell that begins in record {record:,} (line {line:,}) has no end"
                ) from None

    def raw_records(self, wanted: Sequence[int]) -> dict[int, bytes]:
        """The bytes of some records, by number; reads only the segments that hold them."""
        found: dict[int, bytes] = {}
        missing = deque(sorted(wanted))
        starts = [before for before, _ in self._index]
        with self._path.open("rb") as file:
            while missing:
                before, offset = self._index[bisect_left(starts, missing[0]) - 1]
                for segment in cut(file, offset, self._grammar, self._limit):
                    records = [segment.data] if segment.cut else self._grammar.records(segment)
                    while missing and missing[0] <= before + len(records):
                        number = missing.popleft()
                        found[number] = records[number - before - 1]
                    before += len(records)
                    if not missing or missing[0] > before + len(records):
                        break
        return found

    def _line_of(self, offset: int) -> int:
        lines, left = 1, offset
        with self._path.open("rb") as file:
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                lines += block.count(b"\n") or block.count(b"\r")
                left -= len(block)
        return lines

    def _slice(self, segment: Segment, before: int) -> Slice:
        if segment.cut:
            kept = Reject(
                before + 1, None, "too_long",
                f"the record is {segment.cut:,} bytes long, more than max_record_bytes = {self._limit:,}",
                readable(segment.data) + "…",
            )  # fmt: skip
            return Slice(self._parse(b"", []), [], 1, segment.end, lambda _: segment.data, [kept])
        if self._needs_care(segment):
            return self._slice_with_care(segment, before)
        try:
            ragged: list[Any] = []
            cells = self._parse(segment.data, ragged)
        except pa.ArrowInvalid:  # a cell that is not UTF-8, most likely; the careful way says which
            return self._slice_with_care(segment, before)
        rows = len(cells[0])
        texts = _Texts(self._grammar, segment, before)
        numbers: Sequence[int] = range(before + 1, before + rows + 1)
        rejects: list[Reject] = []
        if ragged:
            gone = {before + row.number for row in ragged}
            numbers = [n for n in range(before + 1, before + rows + len(ragged) + 1) if n not in gone]
            rejects = [_ragged(before + row.number, row, row.text.encode()) for row in ragged]
        return Slice(cells, numbers, rows + len(ragged), segment.end, texts.record, rejects)

    def _needs_care(self, segment: Segment) -> bool:
        """Whether something stands in the segment that the parser would take for what it is not."""
        data = segment.data
        return (
            not segment.well_quoted
            or b"\0" in data
            or segment.longest > self._limit
            or data[:1] in (b"\n", b"\r")
            or b"\n\n" in data
            or (b"\r" in data and (b"\n\r" in data or b"\r\r" in data))
            or (len(self._names) == 1 and b"\\." in data)
        )

    def _slice_with_care(self, segment: Segment, before: int) -> Slice:
        """Look at each record by itself; only rows that are fit for it reach the parser."""
        records = self._grammar.records(segment)
        rejects: list[Reject] = []
        fit: list[int] = []
        for position, record in enumerate(records):
            problem = self._problem(record)
            if problem is None:
                fit.append(position)
            else:
                code, reason = problem
                rejects.append(Reject(before + position + 1, None, code, reason, readable(record)))
        ragged: list[Any] = []
        cells = self._parse(b"".join(records[position] + b"\n" for position in fit), ragged)
        odd = {row.number - 1 for row in ragged}
        rejects += [
            _ragged(before + fit[row.number - 1] + 1, row, records[fit[row.number - 1]]) for row in ragged
        ]  # fmt: skip
        rejects.sort(key=lambda item: item.record)
        numbers = [before + position + 1 for place, position in enumerate(fit) if place not in odd]
        return Slice(cells, numbers, len(records), segment.end, lambda n: records[n - before - 1], rejects)

    def _problem(self, record: bytes) -> tuple[str, str] | None:
        if not record:
            return "blank_row", "the line is blank"
        if len(record) > self._limit:
            return "too_long", f"the record is {len(record):,} bytes long, more than max_record_bytes = {self._limit:,}"
        if b"\0" in record:
            return "bad_encoding", "the record holds a NUL byte"
        try:
            record.decode("utf-8")
        except UnicodeDecodeError as error:
            return "bad_encoding", f"byte {error.start + 1} of the record (0x{record[error.start]:02x}) is not UTF-8"
        if b'"' in record and not self._grammar.well_quoted(record, len(record)):
            return "bad_quoting", "text follows the closing quote of a cell; a quote inside quotes is written twice"
        if len(self._names) == 1 and record == b"\\.":
            return "end_marker", "a line of only \\. is an end-of-data mark, not a record"
        return None

    def _parse(self, data: bytes, ragged: list[Any]) -> list[Any]:
        if not data:
            return [pa.array([], pa.string()) for _ in self._names]
        if data.startswith(_BOM):  # the parser drops one at the beginning of whatever it is given
            data = _BOM + data

        def note(row: Any) -> str:
            ragged.append(row)
            return "skip"

        table = pacsv.read_csv(
            pa.py_buffer(data),
            read_options=pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=self._names),
            parse_options=pacsv.ParseOptions(
                delimiter=self._header.delimiter,
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=note,
            ),
            convert_options=self._convert,
        )
        return [column.combine_chunks() if column.num_chunks != 1 else column.chunk(0) for column in table.columns]


class _Texts:
    """The text of the records of one segment, split only if somebody asks."""

    def __init__(self, grammar: Grammar, segment: Segment, before: int) -> None:
        self._grammar, self._segment, self._before = grammar, segment, before

    def record(self, number: int) -> bytes:
        """The bytes of a record by number."""
        return self._records[number - self._before - 1]

    @cached_property
    def _records(self) -> list[bytes]:
        return self._grammar.records(self._segment)


def _ragged(number: int, row: Any, raw: bytes) -> Reject:
    cells = f"{row.actual_columns} cell{'s' if row.actual_columns != 1 else ''} where the header has {row.expected_columns}"
    code = "missing_cell" if row.actual_columns < row.expected_columns else "extra_cell"
    return Reject(number, None, code, cells, readable(raw))
