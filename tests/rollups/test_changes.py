"""A rollup equals its recount, whatever was done to its source."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from ingestd.postgres.session import connect
from ingestd.rollups.tend import tend
from tests.rollups import kit

START = "timestamptz '2026-03-01 00:00:00+00'"
FILL = f"""
insert into sales (at, store, amount)
select {START} + n * interval '7 minutes', nullif(n % 5, 0), case when n % 11 > 0 then (n % 97) / 3.0 end from generate_series(1, 3000) n"""


@pytest.fixture
async def hourly(conn: asyncpg.Connection) -> asyncpg.Connection:
    await conn.execute(kit.SALES)
    await conn.execute(FILL)
    await kit.declared(conn, hourly=kit.rollup())
    return conn


async def test_a_table_filled_before_is_built_and_its_view_is_exact_from_the_first_moment(hourly: asyncpg.Connection) -> None:
    await kit.exact(hourly, "hourly", kit.recount())
    assert await hourly.fetchval("select count(*) from rollups.hourly") > 1500


async def test_columns_of_the_view_are_bucket_groups_and_measures_in_declared_order(hourly: asyncpg.Connection) -> None:
    statement = await hourly.prepare("select * from rollups.hourly")
    columns = [(attribute.name, attribute.type.name) for attribute in statement.get_attributes()]
    expected = await hourly.prepare(kit.recount())
    assert columns == [(attribute.name, attribute.type.name) for attribute in expected.get_attributes()]


CHANGES = {
    "late rows": f"insert into sales (at, store, amount) select {START} - n * interval '31 hours', 1, n from generate_series(1, 9) n",
    "a row moving to another bucket": "update sales set at = at + interval '400 days' where id = 7",
    "a row moving to another group": "update sales set store = 77 where id % 100 = 3",
    "a value becoming null": "update sales set amount = null where id % 5 = 3",
    "the last row of a group going": f"delete from sales where at < {START} + interval '2 hours' and store = 2",
    "a whole bucket going": f"delete from sales where at < {START} + interval '3 hours'",
    "the null group going": "delete from sales where store is null",
    "everything deleted": "delete from sales",
    "truncate": "truncate sales",
    "truncate and more": "truncate sales; insert into sales (at, store, amount) values (now(), 1, 2)",
    "upsert": "insert into sales overriding system value select id, at + interval '1 hour', 3, 5, '' from sales where id < 9 "
    "on conflict (id) do update set at = excluded.at, store = excluded.store, amount = excluded.amount",
    "merge": "merge into sales s using (values (1, 5.5), (2, 6.5), (-1, 7.5)) v (id, amount) on s.id = v.id "
    "when matched and v.id = 2 then delete when matched then update set amount = v.amount, at = s.at - interval '1 day' "
    f"when not matched then insert (at, store, amount) values ({START} - interval '5 days', 8, v.amount)",
    "times that are in no bucket": "insert into sales (at, store, amount) values (null, 1, 1), ('infinity', 1, 1), ('-infinity', 1, 1)",
    "times becoming null and endless": "update sales set at = case id % 3 when 0 then null when 1 then timestamptz 'infinity' "
    "else '-infinity' end where id < 50",
    "a row at the very end of a bucket": f"insert into sales (at, store, amount) values ({START} + interval '1 hour', 1, 1), "
    f"({START} + interval '1 hour' - interval '1 microsecond', 1, 1)",
    "a row far in the future and one far in the past": "insert into sales (at, store, amount) values "
    "('9000-01-01', 1, 1), ('0500-01-01', 1, 1)",
    "nothing at all": "update sales set amount = 1 where false",
}


async def test_the_view_is_exact_at_once_and_the_table_after_a_refresh_whatever_was_done(hourly: asyncpg.Connection) -> None:
    await kit.settled(hourly, "hourly")
    for name, change in CHANGES.items():
        transaction = hourly.transaction()
        await transaction.start()
        await hourly.execute(change)
        try:
            await kit.exact(hourly, "hourly", kit.recount())
        except AssertionError as error:
            raise AssertionError(f"after {name}") from error
        await transaction.rollback()
    assert await hourly.fetchval("select count(*) from ingestd.dirty") == 0


async def test_copy_is_logged(hourly: asyncpg.Connection) -> None:
    await kit.settled(hourly, "hourly")
    await hourly.execute("create temp table taken as select at + interval '9 days' as at, store, amount from sales")
    rows = [tuple(row) for row in await hourly.fetch("select * from taken")]
    await hourly.copy_records_to_table("sales", records=rows, columns=["at", "store", "amount"])
    await kit.exact(hourly, "hourly", kit.recount())


async def test_rows_deleted_through_a_foreign_key_are_logged(conn: asyncpg.Connection) -> None:
    await conn.execute("create table public.stores (store int primary key)")
    await conn.execute("insert into stores select n from generate_series(0, 9) n")
    await conn.execute(kit.SALES)
    await conn.execute("alter table sales add foreign key (store) references stores on delete cascade")
    await conn.execute(FILL)
    await kit.declared(conn, hourly=kit.rollup())
    await kit.settled(conn, "hourly")
    await conn.execute("delete from stores where store = 3")
    await kit.exact(conn, "hourly", kit.recount())


async def test_a_change_rolled_back_leaves_nothing_to_do(hourly: asyncpg.Connection) -> None:
    await kit.settled(hourly, "hourly")
    transaction = hourly.transaction()
    await transaction.start()
    await hourly.execute("delete from sales where store = 1")
    assert await kit.difference(hourly, "select * from rollups.hourly", kit.recount()) == []
    await transaction.rollback()
    assert await hourly.fetchval("select count(*) from ingestd.dirty") == 0
    await kit.exact(hourly, "hourly", kit.recount())


async def test_a_writer_that_commits_after_the_refresh_is_not_lost(hourly: asyncpg.Connection, dsn: str) -> None:
    await kit.settled(hourly, "hourly")
    writer = await connect(dsn)
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute("update sales set amount = amount + 1 where store = 1")
    await hourly.execute("update sales set amount = amount + 1 where store = 2")
    await kit.settled(hourly, "hourly")
    await transaction.commit()
    await writer.close()
    await kit.exact(hourly, "hourly", kit.recount())


async def test_a_refresh_recomputes_only_what_changed(hourly: asyncpg.Connection) -> None:
    await kit.settled(hourly, "hourly")
    await hourly.execute("update sales set amount = 1000 where id in (100, 2500)")
    done = await kit.refreshed(hourly, "hourly")
    assert done.groups == 2
    await hourly.execute("update sales set note = 'no measure looks at it'")
    assert (await kit.refreshed(hourly, "hourly")).groups == 0


async def test_rows_and_buckets_are_counted_as_they_come_and_go(hourly: asyncpg.Connection) -> None:
    from ingestd.rollups.reads import rollup_status

    for change in ("select 1", CHANGES["a whole bucket going"], CHANGES["the null group going"], CHANGES["late rows"], "truncate sales"):
        await hourly.execute(change)
        await kit.settled(hourly, "hourly")
        status = await rollup_status(hourly, "hourly")
        truth = await hourly.fetchrow("select count(*) r, count(distinct bucket) b from rollups.hourly_stored")
        assert (status.rows, status.buckets) == (truth["r"], truth["b"])
        assert (status.state, status.dirty_ranges, status.staleness_seconds) == ("current", 0, 0.0)


async def test_a_where_decides_which_rows_count(conn: asyncpg.Connection) -> None:
    await conn.execute(kit.SALES)
    await conn.execute(FILL)
    await kit.declared(conn, hourly=kit.rollup(where="amount > 3 and note is distinct from 'void'"))
    await kit.settled(conn, "hourly")
    await conn.execute("update sales set note = 'void' where id % 2 = 0; update sales set amount = 4 where amount is null")
    await kit.exact(conn, "hourly", kit.recount(where="amount > 3 and note is distinct from 'void'"))


async def test_a_rollup_without_groups_has_one_row_a_bucket(conn: asyncpg.Connection) -> None:
    await conn.execute(kit.SALES)
    await conn.execute(FILL)
    await kit.declared(conn, total=kit.rollup(group_by=[], bucket="6 hours", measures={"n": "count(*)"}))
    expected = f"select {kit.key('6 hours')} bucket, count(*) n from sales group by 1"
    assert await kit.difference(conn, "select * from rollups.total", expected) == []
    await kit.settled(conn, "total")
    await conn.execute("delete from sales where id < 100")
    await kit.settled(conn, "total")
    assert await kit.difference(conn, "select * from rollups.total_stored", expected) == []


async def test_hostile_names_are_only_names(conn: asyncpg.Connection) -> None:
    await conn.execute(
        """create schema "Odd ""one"; create table "Odd ""one"."it's; drop" ("when?" timestamptz, "a""b" int, "scan" text, bucket int)"""
    )
    await conn.execute("""insert into "Odd ""one"."it's; drop" values (now(), 1, 'x', 5), (now(), 2, null, 6)""")
    await kit.declared(
        conn,
        odd=kit.rollup(
            source="Odd \"one.it's; drop",
            time="when?",
            group_by=["scan"],
            measures={"total": 'sum("a""b")', "mean": 'avg("a""b")', "inner": "max(bucket)"},
        ),
    )
    await kit.settled(conn, "odd")
    await conn.execute("""update "Odd ""one"."it's; drop" set "a""b" = 10 where "scan" is null""")
    rows = await conn.fetch('select "scan", total, mean, "inner" from rollups.odd order by total')
    assert [tuple(row) for row in rows] == [("x", 1, 1, 5), (None, 10, 10, 6)]


def source_scans(plan: Any) -> int:
    """How often a plan went through the source table."""
    found = 0
    nodes = [plan[0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if node.get("Relation Name") == "sales":
            found += node["Actual Loops"]
    return found


@pytest.mark.parametrize("indexed", [False, True])
async def test_many_scattered_changes_are_exact_without_one_scan_each(hourly: asyncpg.Connection, indexed: bool) -> None:
    if indexed:
        await hourly.execute("create index on sales (at); drop view rollups.hourly")
        await tend(hourly)
    await kit.settled(hourly, "hourly")
    await hourly.execute("update sales set amount = 1 where extract(hour from at)::int % 2 = 0 and id % 3 = 0")
    assert await hourly.fetchval("select count(*) from ingestd.dirty") > 100
    assert source_scans(await hourly.fetchval("explain (analyze, format json) select * from rollups.hourly")) == 1
    await kit.exact(hourly, "hourly", kit.recount())


async def test_a_view_of_a_clean_rollup_does_not_touch_its_source(hourly: asyncpg.Connection) -> None:
    await kit.settled(hourly, "hourly")
    assert source_scans(await hourly.fetchval("explain (analyze, format json) select * from rollups.hourly")) == 0


async def test_the_newest_stretches_of_a_large_build_come_first_and_a_budget_is_kept(
    hourly: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingestd.rollups.refresh.ROWS_AT_ONCE", 500)
    async with hourly.transaction():
        from ingestd.rollups.refresh import refresh

        first = await refresh(hourly, "hourly", budget_s=0)
    assert (first.chunks, first.more) == (1, True)
    assert await hourly.fetchval("select min(bucket) from rollups.hourly_stored") > await hourly.fetchval(
        f"select {START} + interval '8 days'"
    )
    assert await kit.difference(hourly, "select * from rollups.hourly", kit.recount()) == []
    assert await hourly.fetchval("select built_at from ingestd.rollup") is None
    done = await kit.refreshed(hourly, "hourly")
    assert done.chunks > 2
    assert await hourly.fetchval("select built_at from ingestd.rollup") is not None
    await kit.exact(hourly, "hourly", kit.recount())


async def test_a_reader_needs_a_right_on_the_view_only(hourly: asyncpg.Connection, dsn: str) -> None:
    await hourly.execute(
        "drop role if exists ingestd_test_reader; create role ingestd_test_reader; grant usage on schema rollups to ingestd_test_reader"
    )
    try:
        await hourly.execute("grant select on rollups.hourly to ingestd_test_reader; set role ingestd_test_reader")
        assert await hourly.fetchval("select count(*) from rollups.hourly") > 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await hourly.fetch("select * from sales")
        await hourly.execute("reset role; grant insert on sales to ingestd_test_reader; set role ingestd_test_reader")
        await hourly.execute("insert into sales (at, store, amount) values (now(), 4, 4)")
    finally:
        await hourly.execute("reset role; drop owned by ingestd_test_reader; drop role ingestd_test_reader")
    await kit.exact(hourly, "hourly", kit.recount())


async def test_of_two_refreshes_at_once_one_steps_aside(hourly: asyncpg.Connection, dsn: str) -> None:
    other = await connect(dsn)
    transaction = other.transaction()
    await transaction.start()
    from ingestd.rollups.refresh import refresh

    assert (await refresh(other, "hourly")).chunks == 1
    async with asyncio.timeout(60):
        assert (await kit.refreshed(hourly, "hourly")).busy
    await transaction.rollback()
    await other.close()
    await kit.exact(hourly, "hourly", kit.recount())
