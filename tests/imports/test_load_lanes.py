"""Loads end to end against Postgres: what lands in the table, what is counted, what is skipped."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.imports.loading import LoadBench


async def test_a_first_load_makes_the_table_with_types_from_every_row(bench: LoadBench) -> None:
    outcome = await bench.load(
        "id,Name,kWh,wind,day,at,local,ok,code,nothing,uid\n"
        '1,"Ann, A.",1.50,10.357019999999999,2024-02-29,2024-01-01T00:00:00Z,2024-01-01 10:00,true,007,,'
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\n"
        "2,Bob,3,5.75,2024-03-01,2024-01-01 01:00:00+05:30,2024-01-01,false,012,,A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a12\n",
        mode="upsert",
        key=("id",),
    )
    assert (outcome.status, outcome.read, outcome.inserted, outcome.created_table) == ("succeeded", 2, 2, True)
    assert await bench.types() == {
        "id": "bigint", "name": "text", "kwh": "numeric", "wind": "double precision", "day": "date",
        "at": "timestamp with time zone", "local": "timestamp without time zone", "ok": "boolean", "code": "text",
        "nothing": "text", "uid": "uuid",
    }  # fmt: skip
    rows = await bench.rows()
    assert rows[0][:9] == (
        1, "Ann, A.", Decimal("1.5"), 10.357019999999999, date(2024, 2, 29), datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, 10, 0, tzinfo=UTC).replace(tzinfo=None), True, "007",
    )  # fmt: skip
    assert rows[1][5] == datetime(2023, 12, 31, 19, 30, tzinfo=UTC)


async def test_an_upsert_counts_new_changed_and_unchanged_rows(bench: LoadBench) -> None:
    await bench.load("id,v\n1,a\n2,b\n3,c\n", mode="upsert", key=("id",))
    outcome = await bench.load("id,v\n1,a\n2,B\n4,d\n", mode="upsert", key=("id",))
    assert (outcome.inserted, outcome.updated, outcome.unchanged) == (1, 1, 1)
    assert await bench.rows() == [(1, "a"), (2, "B"), (3, "c"), (4, "d")]


async def test_provenance_names_the_load_and_record_that_last_changed_a_row(bench: LoadBench) -> None:
    await bench.load("id,v\n1,a\n2,b\n", mode="upsert", key=("id",))
    await bench.load("id,v\n9,z\n1,a\n2,B\n", mode="upsert", key=("id",))
    found = await bench.conn.fetch("select id, _ingestd_load, _ingestd_record from t order by id")
    first, second = [row["id"] for row in await bench.conn.fetch("select id from ingestd.load order by id")]
    assert [tuple(row) for row in found] == [(1, first, 1), (2, second, 3), (9, second, 1)]


async def test_the_last_record_of_a_key_wins_and_the_others_are_superseded(bench: LoadBench) -> None:
    outcome = await bench.load("id,v\n1,a\n2,x\n1,b\n1,c\n", mode="upsert", key=("id",))
    assert (outcome.inserted, outcome.superseded) == (2, 2)
    assert await bench.rows() == [(1, "c"), (2, "x")]


async def test_a_superseded_record_never_wins_even_if_the_last_one_equals_the_row(bench: LoadBench) -> None:
    await bench.load("id,v\n1,a\n", mode="upsert", key=("id",))
    outcome = await bench.load("id,v\n1,z\n1,a\n", mode="upsert", key=("id",))
    assert (outcome.updated, outcome.unchanged, outcome.superseded) == (0, 1, 1)
    assert await bench.rows() == [(1, "a")]


async def test_replace_takes_away_what_the_file_no_longer_has(bench: LoadBench) -> None:
    await bench.load("id,v\n1,a\n2,b\n3,c\n", mode="replace", key=("id",))
    outcome = await bench.load("id,v\n2,b\n4,d\n", mode="replace", key=("id",))
    assert (outcome.inserted, outcome.unchanged, outcome.deleted) == (1, 1, 2)
    assert await bench.rows() == [(2, "b"), (4, "d")]


async def test_replace_deletes_nothing_when_records_were_rejected_or_there_are_none(bench: LoadBench) -> None:
    await bench.load("id,v\n1,1\n2,2\n", mode="replace", key=("id",))
    outcome = await bench.load("id,v\n1,9\n2,x\n", mode="replace", key=("id",), max_reject_ratio=0.5)
    assert (outcome.status, outcome.deleted) == ("partial", 0)
    assert await bench.rows() == [(1, 9), (2, 2)]
    outcome = await bench.load("id,v\n", mode="replace", key=("id",))
    assert (outcome.status, outcome.read, outcome.deleted) == ("succeeded", 0, 0)
    assert len(await bench.rows()) == 2


async def test_a_corrected_b_a_again_ends_as_a(bench: LoadBench) -> None:
    upsert = {"mode": "upsert", "key": ("id",)}
    await bench.load("id,v\n1,a\n", **upsert)
    await bench.load("id,v\n1,b\n", **upsert)
    outcome = await bench.load("id,v\n1,a\n", **upsert)
    assert outcome.status == "succeeded"
    assert await bench.rows() == [(1, "a")]
    again = await bench.load("id,v\n1,a\n", **upsert)
    assert again.status == "skipped"
    assert again.duplicate_of is not None
    assert again.reason == f"already loaded by load {again.duplicate_of}"
    assert (await bench.load("id,v\n1,a\n", force=True, **upsert)).unchanged == 1


@pytest.mark.parametrize("how", [{"mode": "append"}, {"mode": "upsert", "key": ("id",)}])
async def test_what_an_earlier_table_of_the_name_held_is_loaded_again(bench: LoadBench, how: dict[str, Any]) -> None:
    for name, content in (("a.csv", "id,v\n1,x\n"), ("b.csv", "id,v\n2,y\n")):
        await bench.load(content, name=name, **how)
    await bench.conn.execute("drop table t")
    # The first one makes the table anew; the second finds one, and its rows are missing there all the same.
    for name, content in (("a.csv", "id,v\n1,x\n"), ("b.csv", "id,v\n2,y\n")):
        assert (await bench.load(content, name=name, **how)).inserted == 1
    assert (await bench.load("id,v\n2,y\n", name="b.csv", **how)).status == "skipped"
    assert await bench.conn.fetchval("select count(*) from t") == 2


async def test_append_skips_content_it_has_loaded_before_under_any_name(bench: LoadBench) -> None:
    await bench.load("id\n1\n", name="one.csv")
    assert (await bench.load("id\n1\n", name="two.csv")).status == "skipped"
    assert await bench.rows() == [(1,)]
    await bench.conn.execute("drop table t")
    assert (await bench.load("id\n1\n", name="three.csv")).inserted == 1


async def test_too_many_rejects_load_nothing_and_keep_the_rejects(bench: LoadBench) -> None:
    await bench.conn.execute("create table t (id int)")
    outcome = await bench.load("id\n1\nx\n3\n", max_reject_ratio=0.3)
    assert outcome.status == "failed"
    assert outcome.reason is not None
    assert outcome.reason.startswith("1 of 3 records rejected, more than max_reject_ratio 0.3 allows")
    assert await bench.rows() == []
    assert await bench.rejects() == [(2, "id", "bad_value", "x")]
    outcome = await bench.load("id\n1\nx\n3\n", max_reject_ratio=1.0, max_rejects=0)
    assert outcome.status == "failed"


async def test_a_table_made_for_a_file_that_fails_is_taken_back(bench: LoadBench) -> None:
    outcome = await bench.load("a,b\n1\n2\n")
    assert outcome.status == "failed"
    assert await bench.conn.fetchval("select to_regclass('t')") is None
    assert await bench.conn.fetchval("select count(*) from ingestd.created_table") == 0
    assert (await bench.load("x,y\n1,2\n")).inserted == 1


@pytest.mark.parametrize("mode", ["append", "upsert"])
async def test_types_that_arrow_cannot_make_are_cast_by_postgres(bench: LoadBench, mode: str) -> None:
    await bench.conn.execute(
        "create type mood as enum ('sad', 'ok'); create domain even as int check (value % 2 = 0);"
        "create table t (id int primary key, u uuid, j jsonb, a int[], m mood, n inet, tm time, e even, big numeric(60,2), r int4range)"
    )
    columns = "id,u,j,a,m,n,tm,e,big,r"
    good = '1,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,"{""k"": [1]}","{1,2}",ok,10.0.0.1,10:30,4,' + "9" * 50 + '.25,"[1,5)"'
    bad = [
        "2,zz,,,,,,,,", "3,,{,,,,,,,", "4,,,{a},,,,,,", "5,,,,glad,,,,,", "6,,,,,1.2,,,,", "7,,,,,,now,,,", "8,,,,,,,3,,",
        "9,,,,,,,,1.239,", "10,,,,,,,,NaN,",
    ]  # fmt: skip
    key = ("id",) if mode == "upsert" else ()
    outcome = await bench.load("\n".join([columns, good, *bad]) + "\n", mode=mode, key=key, max_reject_ratio=1)
    assert [reject[1:3] for reject in await bench.rejects()] == [
        (name, "bad_value") for name in ("u", "j", "a", "m", "n", "tm", "e", "big", "big")
    ], await bench.reasons()
    assert (outcome.inserted, outcome.rejected) == (1, 9)
    assert [raw for *_, raw in await bench.rejects()] == bad
    row = await bench.conn.fetchrow("select *, u::text as ut, r::text as rt from t")
    assert (row["ut"], row["j"], row["a"], row["m"], row["e"], row["rt"]) == (
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", {"k": [1]}, [1, 2], "ok", 4, "[1,5)",
    )  # fmt: skip
    assert row["big"] == Decimal("9" * 50 + ".25")


async def test_rows_that_break_constraints_are_rejected_one_by_one_with_their_text(bench: LoadBench) -> None:
    await bench.conn.execute(
        "create table p (id int primary key); insert into p values (1), (2);"
        "create table t (id int primary key, p int references p, v int check (v > 0) not null, s varchar(3))"
    )
    text = "id,p,v,s\n1,1,1,abc\n2,9,1,abc\n3,2,-1,abc\n4,2,5,abcd\n5,2,,abc\n1,2,7,x\n6,,8,y\n"
    outcome = await bench.load(text, max_reject_ratio=1)
    assert [reject[:3] for reject in await bench.rejects()] == [
        (2, None, "constraint"), (3, None, "constraint"), (4, "s", "bad_value"), (5, "v", "missing_value"), (6, None, "constraint"),
    ]  # fmt: skip
    assert [reject[3] for reject in await bench.rejects()] == ["2,9,1,abc", "3,2,-1,abc", "4,2,5,abcd", "5,2,,abc", "1,2,7,x"]
    assert (outcome.read, outcome.inserted, outcome.rejected) == (7, 2, 5)
    assert await bench.rows() == [(1, 1, 1, "abc"), (6, None, 8, "y")]


async def test_partitioned_tables_are_loaded_and_counted(bench: LoadBench) -> None:
    await bench.conn.execute(
        "create table t (id int, day date, v int, primary key (id, day)) partition by range (day);"
        "create table t1 partition of t for values from ('2024-01-01') to ('2024-02-01');"
        "create table t2 partition of t for values from ('2024-02-01') to ('2024-03-01')"
    )
    upsert = {"mode": "upsert", "key": ("id", "day"), "max_reject_ratio": 0.5}
    await bench.load("id,day,v\n1,2024-01-01,1\n2,2024-02-01,2\n", **upsert)
    outcome = await bench.load("id,day,v\n1,2024-01-01,1\n2,2024-02-01,3\n3,2024-02-02,4\n4,2025-01-01,5\n", **upsert)
    assert (outcome.inserted, outcome.updated, outcome.unchanged, outcome.rejected) == (1, 1, 1, 1)
    assert (await bench.rejects())[0][:3] == (4, None, "constraint")
    outcome = await bench.load("id,day,v\n7,2024-01-05,1\n", target="public.t")
    assert outcome.inserted == 1


async def test_tables_with_triggers_are_counted_by_what_really_happened(bench: LoadBench) -> None:
    await bench.conn.execute(
        "create table t (id int primary key, v int);"
        "create function f() returns trigger language plpgsql as $$ begin "
        "if new.v = 0 then return null; end if; return new; end $$;"
        "create trigger g before insert or update on t for each row execute function f()"
    )
    outcome = await bench.load("id,v\n1,1\n2,0\n")
    assert (outcome.inserted, outcome.unchanged) == (1, 1)
    outcome = await bench.load("id,v\n1,2\n2,0\n3,3\n", mode="upsert", key=("id",))
    assert (outcome.inserted, outcome.updated, outcome.unchanged) == (1, 1, 1)


async def test_an_unbounded_numeric_keeps_any_number_of_digits(bench: LoadBench) -> None:
    await bench.conn.execute("create table t (v numeric)")
    values = ["1.5", "-0.25", "100", "123456789012345678901234567890.5", "0.1234567890123456789012345", "9" * 60, ".5", "+1"]
    outcome = await bench.load("v\n" + "\n".join(values) + "\n")
    assert outcome.inserted == len(values)
    assert sorted(row[0] for row in await bench.rows()) == sorted(Decimal(value) for value in values)


async def test_identity_columns_are_taken_from_the_file_or_filled(bench: LoadBench) -> None:
    await bench.conn.execute("create table t (id int generated always as identity primary key, v text, d int default 7)")
    assert (await bench.load("v\na\n")).inserted == 1
    assert (await bench.load("id,v\n1,b\n50,c\n", mode="upsert", key=("id",))).updated == 1
    assert await bench.rows() == [(1, "b", 7), (50, "c", 7)]


async def test_a_value_too_large_for_an_index_is_a_reject(bench: LoadBench) -> None:
    import random

    await bench.conn.execute("create table t (id int, v text); create index on t (v)")
    large = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20_000))
    outcome = await bench.load(f"id,v\n1,a\n2,{large}\n3,c\n", max_reject_ratio=0.5)
    assert (outcome.inserted, outcome.rejected) == (2, 1)
    assert [reject[:3] for reject in await bench.rejects()] == [(2, None, "constraint")]
    assert (await bench.rejects())[0][3] == f"2,{large}"


async def test_many_rejects_are_all_kept_in_order(bench: LoadBench) -> None:
    await bench.conn.execute("create table t (id int)")
    content = "id\n" + "".join(f"{n}\n" if n % 2 else f"x{n}\n" for n in range(30_000))
    outcome = await bench.load(content, max_reject_ratio=0.5)
    assert (outcome.inserted, outcome.rejected) == (15_000, 15_000)
    assert [raw for *_, raw in await bench.rejects()] == [f"x{n}" for n in range(0, 30_000, 2)]


async def test_a_file_of_many_pieces_lands_row_by_row(bench: LoadBench) -> None:
    lines = [f'{n},"name, {n}\nof ""{n}""",{n}.5' if n % 3 else f"{n},plain {n},{n}" for n in range(40_000)]
    outcome = await bench.load("id,v,x\n" + "\n".join(lines) + "\n", mode="upsert", key=("id",))
    assert outcome.inserted == 40_000
    wanted = [(n, f'name, {n}\nof "{n}"' if n % 3 else f"plain {n}", Decimal(f"{n}.5") if n % 3 else Decimal(n)) for n in range(40_000)]
    assert await bench.rows() == wanted
