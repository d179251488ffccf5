"""Tables that turn over all day are vacuumed by count, and their statistics stay small and right while jobs end."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from ingestd.jobs.store import statistics
from ingestd.postgres.session import connect

OPTIONS = "select coalesce(reloptions, '{}') from pg_class where oid = ('ingestd.' || $1::text)::regclass"
DELTAS = """
insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
select date_trunc('minute', now()) - make_interval(mins => i % 30), 'k' || i % 3, 1, 'succeeded', i % 5, 2, 7
from generate_series(1, 3000) i"""
SUMS = "select sum(n)::bigint as n, sum(ms)::bigint as ms, count(*) as rows from ingestd.job_stat"


@pytest.mark.parametrize("table", ["job", "job_stat", "node", "node_progress", "dirty"])
async def test_a_table_that_turns_over_is_vacuumed_by_count_whatever_its_size(conn: asyncpg.Connection, table: str) -> None:
    options = await conn.fetchval(OPTIONS, table)
    assert "autovacuum_vacuum_scale_factor=0" in options
    assert any(option.startswith("autovacuum_vacuum_threshold=") for option in options)


@pytest.mark.parametrize("table", ["workflow_step", "unique_hold"])
async def test_a_table_that_changes_a_little_does_not_wait_for_a_fifth_of_it(conn: asyncpg.Connection, table: str) -> None:
    assert "autovacuum_vacuum_scale_factor=0.01" in await conn.fetchval(OPTIONS, table)


async def test_partitions_are_frozen_when_they_are_vacuumed_first(conn: asyncpg.Connection) -> None:
    loose = """select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
               where c.relkind = 'r' and not coalesce(c.reloptions @> array['autovacuum_freeze_min_age=0'], false)"""
    assert await conn.fetch(loose) == []


async def test_folding_while_jobs_end_loses_and_doubles_nothing(conn: asyncpg.Connection, dsn: str) -> None:
    others = [await connect(dsn) for _ in range(4)]

    async def add(own: asyncpg.Connection) -> None:
        for _ in range(10):
            await own.execute(DELTAS)

    async def fold(own: asyncpg.Connection) -> None:
        for _ in range(15):
            await statistics.compact(own)

    try:
        await asyncio.gather(add(others[0]), add(others[1]), fold(others[2]), fold(others[3]))
        await statistics.compact(conn)
    finally:
        for own in others:
            await own.close()
    sums = await conn.fetchrow(SUMS)
    assert (sums["n"], sums["ms"]) == (2 * 10 * 3000 * 2, 2 * 10 * 3000 * 7)
    # 28 or so minutes are over: one row each a kind and bucket; the last ones wait
    assert sums["rows"] < 31 * 15 + 20 * 3 * 100 + 6000


async def test_what_is_folded_is_one_row_a_minute_and_kind_and_bucket(conn: asyncpg.Connection) -> None:
    await conn.execute(DELTAS.replace("i % 30", "3 + i % 30"))
    await statistics.compact(conn)
    assert await conn.fetchval("select count(*) from ingestd.job_stat") == await conn.fetchval(
        "select count(distinct (minute, kind, bucket)) from ingestd.job_stat"
    )


async def test_old_minutes_are_folded_only_when_asked(conn: asyncpg.Connection) -> None:
    """The pass of every minute reads the last hours, not three months."""
    await conn.execute(DELTAS.replace("now()", "now() - interval '5 days'"))
    await statistics.compact(conn)
    assert await conn.fetchval("select count(*) from ingestd.job_stat") == 3000
    await statistics.compact(conn, timedelta(days=90))
    assert await conn.fetchval("select count(*) from ingestd.job_stat") < 1000
