"""History's partitions: made ahead, made when missing, dropped when their time has passed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from ingestd.jobs.model import State
from ingestd.jobs.store import partitions
from ingestd.postgres.pool import connect
from tests.jobs.kit import end, new

BOUNDS = "select pg_get_expr(relpartbound, oid) from pg_class where relname ~ '^history_(ok|bad)_' and relispartition and relkind = 'r'"
NAMES = "select relname from pg_class where relname ~ '^history_(ok|bad)_' and relkind = 'r' order by relname"


async def names(conn: asyncpg.Connection, prefix: str) -> list[str]:
    return [row[0] for row in await conn.fetch(NAMES) if row[0].startswith(prefix)]


async def drop_all(conn: asyncpg.Connection) -> None:
    for name in await names(conn, "history"):
        await conn.execute(f"drop table ingestd.{name}")


async def test_days_and_months_are_made_ahead_and_only_once(conn: asyncpg.Connection) -> None:
    await drop_all(conn)
    assert await partitions.make_partitions(conn, 3) == 10
    assert await partitions.make_partitions(conn, 3) == 0
    assert (len(await names(conn, "history_ok")), len(await names(conn, "history_bad"))) == (5, 5)


async def test_several_nodes_may_make_them_at_once(conn: asyncpg.Connection, dsn: str) -> None:
    await drop_all(conn)
    nodes = [await connect(dsn) for _ in range(4)]
    try:
        assert sum(await asyncio.gather(*(partitions.make_partitions(node, 3) for node in nodes))) == 10
    finally:
        for node in nodes:
            await node.close()


@pytest.mark.parametrize(("state", "prefix"), [(State.SUCCEEDED, "history_ok"), (State.FAILED, "history_bad")])
async def test_an_ack_that_finds_no_partition_makes_it(conn: asyncpg.Connection, state: State, prefix: str) -> None:
    await drop_all(conn)
    number = await new(conn)
    await end(conn, number, state)
    assert await conn.fetchval("select state from ingestd.history where id = $1", number) == state
    assert await names(conn, prefix)


async def test_bounds_are_utc_whatever_the_session_says(conn: asyncpg.Connection) -> None:
    await drop_all(conn)
    await conn.execute("set timezone = 'Pacific/Kiritimati'")
    await partitions.make_partitions(conn, 0)
    await conn.execute("set timezone = 'UTC'")
    bounds = await conn.fetch(BOUNDS)
    assert len(bounds) == 4
    assert all(row[0].count("00:00:00+00") == 2 for row in bounds)


async def test_what_is_past_its_time_is_dropped_and_failures_are_kept_longer(conn: asyncpg.Connection) -> None:
    """Partitions are made as if two and a half months had passed since; only whole ones whose youngest row is too old go."""
    await conn.execute(
        """
        do $$ declare day date; begin
            for i in 1 .. 75 loop
                day := (now() at time zone 'UTC')::date - i;
                if to_regclass('ingestd.history_ok_' || to_char(day, 'YYYYMMDD')) is null then
                    execute format('create table ingestd.history_ok_%s partition of ingestd.history_ok for values from (%L) to (%L)',
                                   to_char(day, 'YYYYMMDD'), day || ' 00:00+00', (day + 1) || ' 00:00+00');
                end if;
            end loop;
            for i in 2 .. 6 loop
                day := date_trunc('month', now() at time zone 'UTC')::date - make_interval(months => i);
                execute format('create table ingestd.history_bad_%s partition of ingestd.history_bad for values from (%L) to (%L)',
                               to_char(day, 'YYYYMM'), day || ' 00:00+00', (day + interval '1 month')::date || ' 00:00+00');
            end loop;
        end $$"""
    )
    today = await conn.fetchval("select (now() at time zone 'UTC')::date")
    would = await partitions.drop_expired(conn, timedelta(days=30), timedelta(days=90), dry_run=True)
    before = len(await names(conn, "history"))
    dropped = await partitions.drop_expired(conn, timedelta(days=30), timedelta(days=90))
    assert dropped == would
    assert len(await names(conn, "history")) == before - len(dropped)
    assert min(await names(conn, "history_ok")) == f"history_ok_{today - timedelta(days=30):%Y%m%d}"
    assert f"history_bad_{today - timedelta(days=89):%Y%m}" in await names(conn, "history_bad")
    assert f"history_bad_{today - timedelta(days=130):%Y%m}" not in await names(conn, "history_bad")
    assert await partitions.drop_expired(conn, timedelta(days=30), timedelta(days=90)) == []


async def test_a_table_that_only_looks_like_a_partition_is_left_alone(conn: asyncpg.Connection) -> None:
    await conn.execute("create table ingestd.history_ok_20010101 (x int); create table public.history_bad_200101 (x int)")
    assert await partitions.drop_expired(conn, timedelta(days=400), timedelta(days=400)) == []
    assert await conn.fetchval("select to_regclass('ingestd.history_ok_20010101') is not null")
    assert await conn.fetchval("select to_regclass('public.history_bad_200101') is not null")
