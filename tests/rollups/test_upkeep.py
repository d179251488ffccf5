"""The loop and the job: a change becomes a refreshed bucket by itself, and refresh and completion commit together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.errors import Conflict, NotFound
from ingestd.events import RollupRefreshed
from ingestd.postgres.pool import Database
from ingestd.rollups import declare, reads
from ingestd.rollups.actions import refresh_now
from ingestd.rollups.facts import facts
from ingestd.rollups.handlers import handlers
from ingestd.rollups.upkeep import Upkeep
from ingestd.service import Poller
from tests.rollups import kit
from tests.support import eventually
from tests.work.conftest import Workbench, working

FILL = (
    "insert into sales (at, store, amount) select timestamptz '2026-01-01' + n * interval '1 hour', n % 3, n from generate_series(1, 200) n"
)


@asynccontextmanager
async def kept(db: Database) -> AsyncIterator[Workbench]:
    """A worker and the upkeep loop, as a daemon runs them."""
    async with working(db, *handlers()) as bench:
        poller = Poller("rollups", Upkeep(db).poll, bench.bus)
        task = asyncio.create_task(poller.run(), name="rollups")
        try:
            yield bench
            assert poller.state.restarts == 0, poller.state.error
        finally:
            poller.stop()
            await task


async def test_a_change_reaches_the_table_by_itself_within_seconds(conn: asyncpg.Connection, db: Database) -> None:
    await declare.apply(conn, {"hourly": kit.rollup()})
    async with kept(db) as bench:
        await conn.execute(kit.SALES)
        await conn.execute(FILL)

        async def current() -> bool:
            status = await reads.rollup_status(conn, "hourly")
            return status.state == "current" and await kit.difference(conn, kit.stored("hourly"), kit.recount()) == []

        await eventually(current)
        await conn.execute("delete from sales where id < 50")
        assert (await reads.rollup_status(conn, "hourly")).dirty_ranges == 1
        await eventually(current)
        # Told after the commit that made it current.
        await eventually(lambda: sum(event.groups for event in bench.events if isinstance(event, RollupRefreshed)) == 249)
    history = await conn.fetch("select state, result, triggered_by from ingestd.history")
    assert {(row["state"], row["triggered_by"]) for row in history} == {("succeeded", "change")}
    assert sum(row["result"]["groups"] for row in history) == 249


async def test_under_steady_writing_a_rollup_is_refreshed_before_it_is_too_stale(conn: asyncpg.Connection, db: Database) -> None:
    await conn.execute(kit.SALES)
    await kit.declared(conn, hourly=kit.rollup(max_staleness="2s"))
    await kit.settled(conn, "hourly")
    async with kept(db) as bench:

        async def write_and_see() -> bool:
            await conn.execute("insert into sales (at, store, amount) values (now(), 1, 1)")
            return any(isinstance(event, RollupRefreshed) for event in bench.events)

        await eventually(write_and_see)


async def test_a_person_can_ask_for_a_refresh_once_and_it_is_in_the_audit_log(conn: asyncpg.Connection) -> None:
    await conn.execute(kit.SALES)
    await kit.declared(conn, hourly=kit.rollup(), still=kit.rollup(flag="frozen"), lost=kit.rollup(source="nowhere"))
    actor = Actor("ada", "operator", "cli")
    job = await refresh_now(conn, actor, "hourly")
    assert await refresh_now(conn, actor, "hourly") == job
    row = await conn.fetchrow("select kind, args, triggered_by from ingestd.job where id = $1", job)
    assert tuple(row) == ("rollup", {"name": "hourly"}, "cli")
    assert await conn.fetchval("select count(*) from ingestd.audit where actor = 'ada' and object_id = 'hourly'") == 2
    with pytest.raises(NotFound, match='did you mean "hourly"'):
        await refresh_now(conn, actor, "hourlie")
    with pytest.raises(Conflict, match='its flag is "frozen"'):
        await refresh_now(conn, actor, "still")
    with pytest.raises(Conflict, match="does not exist yet"):
        await refresh_now(conn, actor, "lost")


async def test_a_refresh_whose_claim_is_lost_changes_nothing(conn: asyncpg.Connection, db: Database) -> None:
    await conn.execute(kit.SALES)
    await kit.declared(conn, hourly=kit.rollup())
    await conn.execute(FILL)
    from uuid import uuid4

    from ingestd.errors import StaleClaim
    from ingestd.events import Bus
    from ingestd.jobs.model import Job
    from ingestd.rollups.handlers import run
    from ingestd.work.context import Context

    now = await conn.fetchval("select now()")
    job = Job(1, "rollup", "rollups", {"name": "hourly"}, 1, 4, 0, now, now, now, uuid4())
    before = await conn.fetchval("select count(*) from ingestd.dirty")
    with pytest.raises(StaleClaim):
        await run(Context(job, db, uuid4(), Bus()), "hourly")
    assert await conn.fetchval("select count(*) from ingestd.dirty") == before > 0
    assert await conn.fetchval("select count(*) from rollups.hourly_stored") == 0
    await kit.exact(conn, "hourly", kit.recount())


async def test_facts_tell_a_healthy_rollup_from_one_that_is_stuck(conn: asyncpg.Connection) -> None:
    room = facts()
    assert room.checks is not None
    assert room.gauges is not None
    await kit.declared(conn, hourly=kit.rollup())
    assert (await room.checks(conn))[0].status == "healthy", "a table that is yet to come is no fault"
    await conn.execute("create table public.sales (n int)")
    await conn.execute("update ingestd.rollup set retry_at = '-infinity'")
    from ingestd.rollups.tend import tend

    await tend(conn)
    await conn.execute("update ingestd.rollup set since = now() - interval '1 hour'")
    (check,) = await room.checks(conn)
    assert check.status == "degraded"
    assert 'hourly: there is no column "at" in public.sales' in check.value
    names = {gauge.name for gauge in await room.gauges(conn)}
    assert {"rollup_staleness_seconds", "rollup_dirty_ranges", "rollup_waiting"} <= names
