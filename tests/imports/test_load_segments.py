"""Cutting a file into pieces: every byte is in one piece, every piece ends where a record ends."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd.imports.formats.segments import Grammar, Segment, UnclosedQuote, cut

PIECES = st.lists(st.sampled_from([b"a", b'"', b",", b"\n", b"\r", b"\r\n", b'""', b"bc", b'"x,y"', b'"\n"', b",,"]), max_size=40)


def reference(data: bytes) -> tuple[list[bytes], bool]:
    """Records of `data` by walking over its bytes, and whether a quote is left open."""
    records, start, at, quoted, begins = [], 0, 0, False, True
    while at < len(data):
        byte = data[at : at + 1]
        if quoted:
            if byte == b'"' and data[at + 1 : at + 2] == b'"':
                at += 1
            elif byte == b'"':
                quoted = False
        elif byte == b'"' and begins:
            quoted = True
        elif byte in (b"\n", b"\r"):
            records.append(data[start:at])
            at += data[at : at + 2] == b"\r\n"
            start = at + 1
        begins = not quoted and data[at : at + 1] in (b",", b"\n", b"\r")
        at += 1
    if start < len(data):
        records.append(data[start:])
    return records, quoted


@settings(max_examples=500, deadline=None)
@given(pieces=PIECES, piece=st.integers(1, 9), limit=st.sampled_from([3, 1000]))
def test_pieces_hold_the_same_records_as_the_whole(pieces: list[bytes], piece: int, limit: int) -> None:
    data = b"".join(pieces)
    wanted, unclosed = reference(data)
    found, problem = gather(data, Grammar(","), limit, piece)
    assert (problem is not None) == unclosed
    if problem is None:
        assert found == wanted
    else:
        assert found + wanted[len(found) : -1] == wanted[:-1]
        assert len(found) + problem.records_before == len(wanted) - 1
        assert data[problem.offset :] == wanted[-1]


def gather(data: bytes, grammar: Grammar, limit: int, piece: int) -> tuple[list[bytes], UnclosedQuote | None]:
    """The records of all pieces; checks that the pieces cover the data without gap."""
    found: list[bytes] = []
    end = 0
    try:
        for segment in cut(io.BytesIO(data), 0, grammar, limit, piece):
            assert segment.offset == end
            end = segment.end
            whole = data[segment.offset : segment.end]
            if segment.cut:
                assert whole.startswith(segment.data)
                found += reference(whole)[0]
            else:
                assert segment.data == whole
                found += grammar.records(segment)
    except UnclosedQuote as problem:
        return found, problem
    assert end == len(data)
    return found, None


@pytest.mark.parametrize(
    ("record", "good"),
    [(b'1,"a"', True), (b'1,"a"b', False), (b'"a""b",c', True), (b'x"y"z,1', True), (b'"a" ,b', False), (b'""', True)],
)
def test_text_after_a_closing_quote_is_noticed(record: bytes, good: bool) -> None:
    assert Grammar(",").well_quoted(record, len(record)) is good


def test_time_to_cut_grows_evenly_with_the_number_of_quotes() -> None:
    data = b'"' * (1 << 19)
    grammar = Grammar(",")
    records = grammar.records(Segment(data, 0, quoted=True))
    assert b"".join(records) == data
