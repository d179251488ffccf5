"""A bloated index is built anew beside the old one, and whatever goes wrong meanwhile leaves nothing behind."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from ingestd.app import cleanup
from ingestd.events import Bus, Event, IndexRebuilt, Notice
from ingestd.jobs.care import LOCK, Care, Limits, is_bloated
from ingestd.jobs.settings import RetentionSettings
from ingestd.jobs.store import care as store
from ingestd.postgres import locks
from ingestd.postgres.pool import Database
from ingestd.postgres.session import connect
from tests.jobs.kit import end, new
from tests.support import eventually

SMALL = Limits(least_bytes=200_000, rebuild_every=timedelta(hours=1), patience_ms=20_000, cleanup_every=timedelta(days=1))
FILL = """
insert into ingestd.job (kind, queue_id, run_at)
select 'x', 1, now() + make_interval(secs => random() * i) from generate_series(1, $1::int) i"""
FILES = """
select indexrelid::regclass::text as name, pg_relation_filenode(indexrelid) as file, indisvalid as valid
from pg_index where indrelid = 'ingestd.job'::regclass"""
REBUILDER = "select pid from pg_stat_activity where datname = current_database() and query like 'reindex%' and wait_event_type = 'Lock'"


class Watched:
    """A care that was built for a test, and what it told."""

    def __init__(self, db: Database, limits: Limits = SMALL) -> None:
        bus = Bus()
        self.events: list[Event] = []
        bus.subscribe(self.events.append)
        self.care = Care(db, bus, limits)

    async def look_twice(self) -> None:
        """Whatever is bloated must be so at two looks."""
        await self.care.poll()
        assert self.rebuilt() == []
        await self.care.poll()

    def rebuilt(self) -> list[IndexRebuilt]:
        return [event for event in self.events if isinstance(event, IndexRebuilt)]

    def notices(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice)]


@pytest.fixture
async def bloated(conn: asyncpg.Connection) -> asyncpg.Connection:
    """Thirty thousand jobs have been here, and a hundred still are."""
    await conn.execute(FILL, 30_000)
    await conn.execute("delete from ingestd.job where id % 300 <> 0")

    # The server must have counted the dead rows before they go, or it adds them afterwards; and until the last snapshot has
    # ended that a look of autovacuum's holds, or a transaction of another database makes older, some stay.
    async def all_gone() -> bool:
        await conn.execute("select pg_stat_force_next_flush()")
        await conn.execute("vacuum analyze ingestd.job")
        rows = await conn.fetchrow("select n_live_tup, n_dead_tup from pg_stat_user_tables where relid = 'ingestd.job'::regclass")
        return tuple(rows) == (100, 0)

    await eventually(all_gone, saying="nothing is left of the jobs that were deleted")
    return conn


async def files(conn: asyncpg.Connection) -> dict[str, int]:
    return {row["name"]: row["file"] for row in await conn.fetch(FILES)}


async def test_a_bloated_index_is_rebuilt_and_a_rebuilt_one_is_not(bloated: asyncpg.Connection, db: Database) -> None:
    watched = Watched(db)
    before = await files(bloated)
    await watched.look_twice()
    told = {event.index: event for event in watched.rebuilt()}
    assert {"ingestd.job_claimable", "ingestd.job_pkey"} <= told.keys()
    assert all(event.error is None and event.bytes_after * 4 < event.bytes_before for event in told.values())
    after = await files(bloated)
    assert after.keys() == before.keys()
    assert {f"ingestd.{name.rpartition('.')[2]}" for name in before if after[name] != before[name]} == told.keys()
    again = Watched(db, Limits(least_bytes=0, rebuild_every=timedelta(0), cleanup_every=timedelta(days=1)))
    assert not [one for one in await store.large_indexes(bloated, 0) if is_bloated(one, SMALL)]
    await again.care.poll()
    await again.care.poll()
    assert "ingestd.job_claimable" not in {event.index for event in again.rebuilt()}


@pytest.mark.parametrize("analyzed", [True, False])
async def test_a_large_index_that_is_full_is_left_alone(conn: asyncpg.Connection, db: Database, analyzed: bool) -> None:
    await conn.execute("alter table ingestd.job set (autovacuum_enabled = off)")
    await conn.execute(FILL, 30_000)
    await conn.execute("select pg_stat_force_next_flush()")
    if analyzed:
        await conn.execute("analyze ingestd.job")
    assert await store.large_indexes(conn, SMALL.least_bytes)
    watched = Watched(db)
    await watched.look_twice()
    assert watched.rebuilt() == []


async def test_dead_entries_that_vacuum_may_not_remove_are_no_reason(conn: asyncpg.Connection, db: Database, dsn: str) -> None:
    """Under an old transaction a new index would be as large as the old one."""
    holder = await connect(dsn)
    try:
        await holder.execute("begin isolation level repeatable read; select 1 from ingestd.queue limit 1")
        await conn.execute(FILL, 30_000)
        await conn.execute("delete from ingestd.job")
        await conn.execute("vacuum analyze ingestd.job")
        await conn.execute("select pg_stat_force_next_flush()")
        await eventually(lambda: conn.fetchval("select n_dead_tup >= 30000 from pg_stat_user_tables where relid = 'ingestd.job'::regclass"))
        watched = Watched(db)
        await watched.look_twice()
        assert watched.rebuilt() == []
    finally:
        await holder.close()


async def test_an_index_is_rebuilt_at_most_once_an_hour(bloated: asyncpg.Connection, db: Database) -> None:
    await bloated.execute("""insert into ingestd.care (action, object)
           select 'rebuild', indexrelid::regclass::text from pg_index where indrelid = 'ingestd.job'::regclass""")
    watched = Watched(db)
    await watched.look_twice()
    assert watched.rebuilt() == []
    await bloated.execute("update ingestd.care set at = now() - interval '61 minutes' where object like '%claimable'")

    async def rebuilt() -> list[str]:
        await watched.care.poll()
        return [event.index for event in watched.rebuilt()]

    # The server's numbers of rows may be some seconds behind: then it is looked at twice again.
    assert await eventually(rebuilt) == ["ingestd.job_claimable"]


async def test_two_nodes_never_rebuild_at_once(bloated: asyncpg.Connection, db: Database) -> None:
    watched = Watched(db)
    other = Watched(db)
    async with locks.alone(bloated, LOCK):
        await watched.look_twice()
        await other.look_twice()
    assert watched.rebuilt() == other.rebuilt() == []
    await asyncio.gather(watched.care.poll(), other.care.poll())
    names = [event.index for event in watched.rebuilt() + other.rebuilt()]
    assert len(names) == len(set(names)) >= 2


async def test_a_rebuild_that_was_killed_is_cleared_away_and_jobs_go_on(bloated: asyncpg.Connection, db: Database, dsn: str) -> None:
    holder = await connect(dsn)
    watched = Watched(db)
    try:
        await holder.execute("begin; insert into ingestd.job (kind, queue_id) values ('held', 1)")
        rebuilding = asyncio.create_task(watched.look_twice())
        pid = await eventually(lambda: bloated.fetchval(REBUILDER))
        await bloated.execute("set lock_timeout = '2s'")
        await end(bloated, await new(bloated))
        await bloated.fetchval("select pg_terminate_backend($1)", pid)
        await asyncio.wait([rebuilding])
        left = await store.left_over(bloated)
        assert [name.partition("_cc")[2] for name in left] == ["new"]
        assert any(event.error for event in watched.rebuilt()) or rebuilding.exception() is not None
    finally:
        await holder.close()
    await watched.care.poll()
    assert await store.left_over(bloated) == []
    assert f"dropped {left[0]}, which an interrupted rebuild had left" in watched.notices()
    assert not any("_cc" in name for name in await files(bloated))
    assert all(row["valid"] for row in await bloated.fetch(FILES))


async def test_a_rebuild_that_waits_too_long_gives_up_and_clears_away(bloated: asyncpg.Connection, db: Database, dsn: str) -> None:
    holder = await connect(dsn)
    watched = Watched(db, Limits(least_bytes=200_000, patience_ms=200))
    try:
        await holder.execute("begin; insert into ingestd.job (kind, queue_id) values ('held', 1)")
        await watched.look_twice()
        # Others are bloated too, and would wait for the same.
        assert [event.error for event in watched.rebuilt()] == ["canceling statement due to lock timeout"]
        # What it left waits for the same transaction: a look at it then is no failure, and leaves it to the next.
        assert await store.left_over(bloated)
        await watched.care.poll()
        assert not any("dropped" in words for words in watched.notices())
    finally:
        await holder.close()
    await watched.care.poll()
    assert await store.left_over(bloated) == []


async def test_somebody_elses_rebuild_under_way_is_not_left_over(bloated: asyncpg.Connection, dsn: str) -> None:
    holder, theirs = await connect(dsn), await connect(dsn)
    try:
        await holder.execute("begin; insert into ingestd.job (kind, queue_id) values ('held', 1)")
        task = asyncio.create_task(theirs.execute("reindex index concurrently ingestd.job_claimable"))
        await eventually(lambda: bloated.fetchval(REBUILDER))
        assert await bloated.fetchval("select count(*) from pg_index where not indisvalid") == 1
        assert await store.left_over(bloated) == []
        await holder.execute("rollback")
        await task
    finally:
        await holder.close()
        await theirs.close()


async def test_a_table_that_autovacuum_has_left_is_vacuumed_but_not_again_and_again(conn: asyncpg.Connection, db: Database) -> None:
    await conn.execute("alter table ingestd.job set (autovacuum_enabled = off)")
    await conn.execute(FILL, 60_000)
    await conn.execute("delete from ingestd.job where id > 10")
    await conn.execute("select pg_stat_force_next_flush()")
    dead = "select n_dead_tup from pg_stat_user_tables where relid = 'ingestd.job'::regclass"
    await eventually(lambda: conn.fetchval(f"select ({dead}) > 50000"))
    watched = Watched(db)
    await watched.care.poll()
    assert await conn.fetchval(dead) == 0
    assert [words for words in watched.notices() if "vacuumed ingestd.job " in words]
    await conn.execute("update ingestd.job set rank = 1")
    await watched.care.poll()
    assert len([words for words in watched.notices() if "vacuumed ingestd.job " in words]) == 1


async def test_a_cleanup_is_enqueued_once_a_day_and_not_on_the_first_look(conn: asyncpg.Connection, db: Database) -> None:
    jobs = "select count(*) from ingestd.job where kind = 'cleanup'"
    watched = Watched(db)
    await watched.care.poll()
    assert await conn.fetchval(jobs) == 0
    await conn.execute("update ingestd.care set at = now() - interval '25 hours'")
    await asyncio.gather(watched.care.poll(), watched.care.poll())
    assert await conn.fetchval(jobs) == 1


async def test_a_cleanup_by_somebody_else_puts_off_the_daily_one(conn: asyncpg.Connection, db: Database) -> None:
    watched = Watched(db)
    await watched.care.poll()
    await conn.execute("update ingestd.care set at = now() - interval '3 days'")
    await cleanup.clean(conn, RetentionSettings())
    await watched.care.poll()
    assert await conn.fetchval("select count(*) from ingestd.job where kind = 'cleanup'") == 0
