"""Nasty inputs: what is a row is loaded exactly, what is not is a reject that names its record, or one clear file error."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.imports.loading import LoadBench

TWO = "create table t (id int, v text)"
Row = tuple[int, str | None]
Bad = tuple[int, str, str]

INPUTS: dict[str, tuple[bytes, list[Row], list[Bad]]] = {
    "quoted delimiter and quote": (b'id,v\n1,"a,""b"""\n', [(1, 'a,"b"')], []),
    "newline in quotes": (b'id,v\n1,"a\nb"\n2,c\n', [(1, "a\nb"), (2, "c")], []),
    "crlf in quotes": (b'id,v\r\n1,"a\r\nb"\r\n2,c\r\n', [(1, "a\r\nb"), (2, "c")], []),
    "end-of-data mark in quotes": (b'id,v\n1,"\\."\n2,x\n', [(1, "\\."), (2, "x")], []),
    "bare end-of-data mark": (b"id,v\n1,x\n\\.\n2,y\n3,z", [(1, "x"), (2, "y"), (3, "z")], [(2, "missing_cell", "\\.")]),
    "byte order mark": (b"\xef\xbb\xbfid,v\n1,a\n", [(1, "a")], []),
    "byte order mark before a quoted header": (b'\xef\xbb\xbf"id","v"\n1,a\n', [(1, "a")], []),
    "no final line end": (b"id,v\n1,a\n2,b", [(1, "a"), (2, "b")], []),
    "mixed line ends": (b"id,v\r\n1,a\n2,b\r\n3,c\r4,d\n", [(1, "a"), (2, "b"), (3, "c"), (4, "d")], []),
    "carriage returns only": (b"id,v\r1,a\r2,b\r", [(1, "a"), (2, "b")], []),
    "extra cell": (b"id,v\n1,a\n2,b,c\n", [(1, "a")], [(2, "extra_cell", "2,b,c")]),
    "missing cell": (b"id,v\n1\n2,b\n", [(2, "b")], [(1, "missing_cell", "1")]),
    "quote in a bare cell": (b'id,v\n1,x 5" pipe\n2,b\n', [(1, 'x 5" pipe'), (2, "b")], []),
    "text after a closing quote": (b'id,v\n1,"a"b\n2,c\n', [(2, "c")], [(1, "bad_quoting", '1,"a"b')]),
    "blank line": (b"id,v\n1,a\n\n2,b\n", [(1, "a"), (2, "b")], [(2, "blank_row", "")]),
    "blank lines at both ends": (b"id,v\n\r\n1,a\n\n", [(1, "a")], [(1, "blank_row", ""), (3, "blank_row", "")]),
    "blank line in quotes": (b'id,v\n1,"a\n\nb"\n', [(1, "a\n\nb")], []),
    "row of nothing but commas": (b"id,v\n,\n1,a\n", [(None, None), (1, "a")], []),  # type: ignore[list-item]
    "empty against quoted empty": (b'id,v\n1,\n2,""\n', [(1, None), (2, "")], []),
    "zero byte": (b"id,v\n1,a\0b\n2,c\n", [(2, "c")], [(1, "bad_encoding", "1,a\\x00b")]),
    "latin-1 among utf-8": ("id,v\n1,é\n".encode() + b"2,caf\xe9\n3,c\n", [(1, "é"), (3, "c")], [(2, "bad_encoding", "2,caf\\xe9")]),
    "whole number guesses": (
        b"id,v\n0x1F,a\n1_000,b\n1.5,c\n 7,d\n1e3,e\n99999999999,f\n+5,g\n7,h\n",
        [(7, "h")],
        [(1, "bad_value", "0x1F,a"), (2, "bad_value", "1_000,b"), (3, "bad_value", "1.5,c"), (4, "bad_value", " 7,d"),
         (5, "bad_value", "1e3,e"), (6, "bad_value", "99999999999,f"), (7, "bad_value", "+5,g")],
    ),
    "space before a quote": (b'id,v\n1, "x"\n', [(1, ' "x"')], []),
    "semicolons": (b'id;v\n1;"a;b"\n2;c,d\n', [(1, "a;b"), (2, "c,d")], []),
    "tabs": (b"id\tv\n1\ta b\n", [(1, "a b")], []),
    "quoted newline in the header": (b'"id","v"\r\n"1","a"\r\n', [(1, "a")], []),
    "quoted null in a number": (b'id,v\n"",a\n', [(None, "a")], []),  # type: ignore[list-item]
    "header in capitals": (b"ID, V \n1,a\n", [(1, "a")], []),
    "columns in another order": (b"v,id\na,1\n", [(1, "a")], []),
    "very long cell": (b"id,v\n1," + b"x" * 700_000 + b"\n2,b\n", [(1, "x" * 700_000), (2, "b")], []),
    "formula": (b"id,v\n1,=cmd()\n", [(1, "=cmd()")], []),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["append", "upsert"])
@pytest.mark.parametrize("name", INPUTS)
async def test_a_nasty_input_is_loaded_exactly_or_rejected_by_record(bench: LoadBench, name: str, mode: str) -> None:
    content, rows, rejects = INPUTS[name]
    rows = [row for row in rows if mode == "append" or row[0] is not None]
    await bench.conn.execute("create table t (id int, v text, n serial)" if mode == "append" else TWO)
    if mode == "upsert":
        await bench.conn.execute("create unique index on t (id)")
    outcome = await bench.load(content, max_reject_ratio=1, mode=mode, key=("id",) if mode == "upsert" else ())
    found = await bench.rows("select id, v from t order by n" if mode == "append" else "select id, v from t order by id")
    assert found == rows
    refused = [(record, code, raw) for record, _, code, raw in await bench.rejects() if code != "missing_value"]
    assert refused == rejects
    assert outcome.read == outcome.inserted + outcome.rejected


@pytest.mark.parametrize(
    ("sql_type", "good", "bad"),
    [
        ("numeric(12,2)", ["1.5", "-0.25", "1.230", ".5"], ["1.239", "1e3", "NaN", "12345678901.23", "1,5", "infinity"]),
        ("numeric", ["1.5", "0.000001", "7"], ["1e3", "NaN", "0x10", "--1", "1_0"]),
        ("boolean", ["true", "false", "TRUE", "t", "f"], ["1", "0", "yes", "of", "on"]),
        ("date", ["2024-02-29", "0001-01-01"], ["2023-02-29", "now", "today", "01/02/2024", "2024-1-1", "infinity", "0000-01-01"]),
        (
            "timestamptz",
            ["2013-01-01T06:00:00Z", "2013-01-01 06:00:00+00", "2013-01-01 06:00:00.25+05:30", "2013-01-01T06:00Z"],
            ["2013-01-01 06:00:00", "2013-01-01", "2024-02-30T00:00:00Z", "now", "infinity", "epoch", "2013-01-01T25:00:00Z"],
        ),
        ("timestamp", ["2013-01-01 06:00", "2013-01-01"], ["2013-01-01T06:00:00Z", "now", "2024-02-30", "2013-01-01T06:00:00.1234567"]),
        ("timestamp(0)", ["2013-01-01 06:00:01"], ["2013-01-01 06:00:01.5"]),
        ("double precision", ["1e3", "1.5", "NaN", "-Infinity"], ["1e999", "nan", "inf", "0x1p3", " 1", "1d"]),
        ("smallint", ["32767", "-5"], ["32768", "1.0"]),
        ("varchar(3)", ["abc", "äöü"], ["abcd", "abc "]),
        ("uuid", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"], ["zz"]),
        ("time", ["10:00", "10:00:00.5"], ["now", "25:00", "allballs"]),
        ("jsonb", ['"{""a"": 1}"', "3"], ["{", "nope"]),
    ],
)
async def test_values_are_taken_strictly(bench: LoadBench, sql_type: str, good: list[str], bad: list[str]) -> None:
    await bench.conn.execute(f"create table t (n serial, v {sql_type})")
    quoted = [f'"{value}"' if "," in value and not value.startswith('"') else value for value in good + bad]
    outcome = await bench.load("v\n" + "\n".join(quoted) + "\n", max_reject_ratio=1)
    assert [raw for *_, raw in await bench.rejects()] == quoted[len(good) :], await bench.reasons()
    assert outcome.inserted == len(good)
    for value, row in zip(good, await bench.rows("select v::text from t order by n"), strict=True):
        text = value.strip('"').replace('""', '"')
        assert await bench.conn.fetchval(f"select $1::text::{sql_type} is not distinct from $2::text::{sql_type}", text, row[0])


async def test_a_timestamp_without_zone_is_refused_with_the_way_out(bench: LoadBench) -> None:
    await bench.conn.execute("create table t (at timestamptz)")
    await bench.load("at\n2013-01-01 06:00:00\n", max_reject_ratio=1)
    assert await bench.reasons() == ['at: "2013-01-01 06:00:00" has no time zone: write it like 2013-01-01T06:00:00Z']


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"\n1,2\n", "the first line is blank"),
        (b"id,v\n1,a\n2,\"b\n3,c\n", "quote never closed: a quoted cell that begins in record 2 (line 3) has no end"),
        (b"foo,bar\n1,a\n", "wrong header: public.t has the columns id, v; the file has foo, bar and shares none"),
        (b"id,vv\n1,a\n", 'column "vv" is not in public.t, did you mean "v"?'),
        (b"v\na\n", "key column id is not in the file"),
        (b"id,\n1,a\n", "blank label: column 2 of 2"),
        (b"id,v,V\n1,a,b\n", "duplicate label: columns 2 (\"v\") and 3 (\"V\")"),
        (b"id,%%\n1,a\n", "has no letter or digit"),
        (b"id,_ingestd_load\n1,a\n", "reserved"),
        (b"id," + b"x" * 64 + b"\n1,a\n", "longer than 63 bytes"),
        (b"\x1f\x8b\x08\0\0", "gzip"),
        ("id,v\n1,a\n".encode("utf-16"), "UTF-16"),
        (b"id,\xff\n1,a\n", "not UTF-8"),
        (b'"id,v\n1,a\n', "never closed"),
    ],
)  # fmt: skip
async def test_a_file_that_is_no_good_as_a_whole_fails_with_one_line(bench: LoadBench, content: bytes, reason: str) -> None:
    await bench.conn.execute("create table t (id int primary key, v text)")
    outcome = await bench.load(content, mode="upsert", key=("id",))
    assert outcome.status == "failed"
    assert reason in (outcome.reason or "")
    assert "\n" not in (outcome.reason or "")
    assert await bench.rows() == []


async def test_an_over_long_record_is_rejected_by_number_and_the_rest_loads(bench: LoadBench) -> None:
    await bench.conn.execute(TWO)
    long = b"2," + b"y" * 3_000_000
    quoted = b'3,"' + b'z""\n,' * 600_000 + b'"'
    outcome = await bench.load(b"id,v\n1,a\n" + long + b"\n" + quoted + b"\r\n4,d\n", max_reject_ratio=1)
    assert [(record, code) for record, _, code, _ in await bench.rejects()] == [(2, "too_long"), (3, "too_long")]
    assert "3,000,002 bytes" in (await bench.reasons())[0] or "3,000,003 bytes" in (await bench.reasons())[0]
    assert await bench.rows() == [(1, "a"), (4, "d")]
    assert outcome.read == 4


async def test_a_small_record_limit_counts_every_record(bench: LoadBench) -> None:
    await bench.conn.execute(TWO)
    await bench.load(b"id,v\n1,abc\n2,abcdefghijkl\n3,abc\n", max_reject_ratio=1, max_record_bytes=10)
    assert [(record, code) for record, _, code, _ in await bench.rejects()] == [(2, "too_long")]


async def test_a_header_without_records_succeeds_with_nothing_read(bench: LoadBench) -> None:
    outcome = await bench.load("id,v\n", mode="upsert", key=("id",))
    assert (outcome.status, outcome.read) == ("succeeded", 0)
    assert outcome.reason == "the file holds no records: public.t was not created"
    assert await bench.conn.fetchval("select to_regclass('t')") is None


@pytest.mark.parametrize(
    ("statement", "options", "reason"),
    [
        ("create table t (id int, v text)", {"mode": "upsert", "key": ("id",)}, "create unique index on public.t (id)"),
        ("create view t as select 1 as id, 'a' as v", {}, "public.t is a view: an import needs a table"),
        ("create table t (id int, v text, w int not null)", {}, "public.t.w must have a value and is not in the file"),
        ("create table t (id int, v text generated always as ('x') stored)", {}, "computed by Postgres"),
        ("select 1", {"target": "nowhere.t"}, 'schema "nowhere" does not exist'),
        ("select 1", {"columns": {"v": "timestampz"}}, 'columns.v: Postgres knows no type "timestampz"'),
        ("select 1", {"columns": {"v": "text); drop table ingestd.load; --"}}, "knows no type"),
        ("select 1", {"columns": {"w": "text"}}, "declared column w is not in the file"),
        ("select 1", {"mode": "upsert", "key": ("idd",)}, 'key column idd is not in the file, did you mean "id"?'),
    ],
)
async def test_a_target_that_does_not_fit_fails_with_one_line(
    bench: LoadBench, statement: str, options: dict[str, object], reason: str
) -> None:
    await bench.conn.execute(statement)
    outcome = await bench.load("id,v\n1,a\n", **options)
    assert outcome.status == "failed"
    assert reason in (outcome.reason or "")


async def test_labels_become_names_by_rename_first_then_plain_rules(bench: LoadBench) -> None:
    await bench.load('Meter ID,readAt,kWh,Größe (m),2013,"a ""b"""\n1,2,3,4,5,6\n', rename={"Meter ID": "meter"}, columns={"meter": "int"})
    assert await bench.types() == {
        "meter": "integer", "read_at": "bigint", "kwh": "bigint", "größe_m": "bigint", "_2013": "bigint", "a_b": "bigint",
    }  # fmt: skip


async def test_null_texts_are_null_and_quoted_ones_only_outside_text(bench: LoadBench) -> None:
    await bench.load('id,n,v\n1,NA,NA\n2,"NA","NA"\n3,5,x\n', null=("", "NA"))
    assert await bench.types() == {"id": "bigint", "n": "bigint", "v": "text"}
    assert await bench.rows() == [(1, None, None), (2, None, "NA"), (3, 5, "x")]


CELL = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.sampled_from(['"', '""', "\n", "\r\n", "\r", ",", ";", "\\.", "\\", " ", '"a"', "\ufeff", "a\n\nb", "=1"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CELL, CELL), max_size=30),
    end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    mode=st.sampled_from(["append", "upsert"]),
)
async def test_what_the_csv_module_writes_is_what_lands_in_the_table(
    bench: LoadBench, rows: list[tuple[str | None, str | None]], end: str, delimiter: str, mode: str
) -> None:
    await bench.conn.execute("drop table if exists t; create table t (n bigint primary key, a text, b text)")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=end, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)
    writer.writerow(["n", "a", "b"])
    lines = []
    for number, row in enumerate(rows):
        # the module writes None and "" alike; ours tells them apart, so an empty text is written in quotes here
        cells = [str(number), *(("" if cell is None else quoted(cell)) for cell in row)]
        lines.append(delimiter.join(cells) + end)
    content = out.getvalue() + "".join(lines)
    outcome = await bench.load(content, mode=mode, key=("n",) if mode == "upsert" else (), force=True)
    assert outcome.status == "succeeded", outcome.reason
    assert await bench.rows() == [(number, *row) for number, row in enumerate(rows)]


def quoted(cell: str) -> str:
    """A cell as a careful writer quotes it."""
    plain = cell and not set(cell) & set('",;\t|\r\n')
    return cell if plain else '"' + cell.replace('"', '""') + '"'


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.dictionaries(st.integers(0, 30), st.integers(0, 3)),
    records=st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["0", "1", "2", "3", "x"])), max_size=40),
)
async def test_counts_of_an_upsert_add_up_for_any_overlap(bench: LoadBench, before: dict[int, int], records: list[tuple[int, str]]) -> None:
    await bench.conn.execute("drop table if exists t; create table t (id int primary key, v int)")
    await bench.conn.executemany("insert into t values ($1, $2)", list(before.items()))
    content = "id,v\n" + "".join(f"{key},{value}\n" for key, value in records)
    outcome = await bench.load(content, mode="upsert", key=("id",), max_reject_ratio=1, force=True)
    good = [(key, int(value)) for key, value in records if value != "x"]
    after = {**before, **dict(good)}
    assert dict(await bench.rows()) == after
    last = dict(good)
    assert outcome.read == len(records)
    assert outcome.rejected == len(records) - len(good)
    assert outcome.superseded == len(good) - len(last)
    assert outcome.inserted == len(set(last) - set(before))
    assert outcome.updated == sum(1 for key, value in last.items() if key in before and before[key] != value)
