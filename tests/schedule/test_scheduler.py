"""The loop and its timer, against a real Postgres and the real clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from ingestd.events import Bus, Event, SlotFired
from ingestd.postgres.pool import Database
from ingestd.schedule import facts
from ingestd.schedule.scheduler import EVERY_S, HELD_S, Scheduler, fire_once
from tests.schedule.conftest import backdate, declare
from tests.support import eventually


@asynccontextmanager
async def running(scheduler: Scheduler) -> AsyncIterator[None]:
    task = asyncio.create_task(scheduler.run(), name="scheduler under test")
    yield
    scheduler.stop()
    async with asyncio.timeout(60):
        await task


async def test_the_timer_fires_slots_on_time_though_the_loop_rests_for_longer(db: Database, conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "overlap": "allow"}})
    fired: list[Event] = []
    bus = Bus()
    bus.subscribe(fired.append)
    async with running(Scheduler(db, bus)):
        await eventually(lambda: len(fired) >= 3, timeout_s=EVERY_S - 5)
    assert all(isinstance(event, SlotFired) for event in fired)
    # The best of them: a machine that is busy with something else is late now and then.
    assert await conn.fetchval("select min(fired_at - due_at) < interval '0.9 seconds' from ingestd.slot")


async def test_a_schedule_declared_later_is_noticed_when_the_loop_is_woken(db: Database, conn: asyncpg.Connection) -> None:
    scheduler = Scheduler(db, Bus())
    async with running(scheduler):
        await eventually(lambda: scheduler.state.last_tick > 0)
        await declare(conn, {"one": {"every": "1s"}})
        scheduler.wake()

        async def fired() -> bool:
            return bool(await conn.fetchval("select exists (select from ingestd.slot)"))

        await eventually(fired, timeout_s=EVERY_S - 5)


async def test_a_lost_timer_costs_one_rest_of_the_loop_at_most(db: Database, conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1h"}})
    scheduler = Scheduler(db, Bus())
    assert await scheduler.poll() == EVERY_S  # no timer runs outside `run`
    await backdate(conn, timedelta(minutes=1))
    await conn.execute("update ingestd.schedule set accounted_to = now() - interval '2 hours'")
    await conn.execute("update ingestd.schedule set since = now() - interval '2 hours'")
    await scheduler.poll()
    assert await conn.fetchval("select count(*) from ingestd.job") == 1


async def test_what_another_node_holds_is_looked_at_again_soon(db: Database, conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, timedelta(minutes=1))
    async with conn.transaction():
        await conn.execute("select from ingestd.schedule for update")
        assert await Scheduler(db, Bus()).poll() == HELD_S


async def test_a_loop_that_fails_shows_in_health_and_goes_on(db: Database, conn: asyncpg.Connection) -> None:
    scheduler = Scheduler(db, Bus())
    checks = facts.facts(scheduler).checks
    assert checks is not None
    await conn.execute("alter table ingestd.downtime rename to hidden")
    async with running(scheduler):
        await eventually(lambda: scheduler.state.failures > 0)
        assert (await checks(conn))[0].status == "degraded"
        await conn.execute("alter table ingestd.hidden rename to downtime")
        await eventually(lambda: scheduler.state.failures == 0 and scheduler.state.last_tick > 0)
    assert (await checks(conn))[0].status == "healthy"


async def test_firing_once_fires_what_is_due_and_ends(db: Database, conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}, "later": {"at": "2999-01-01T00:00:00Z"}})
    await backdate(conn, timedelta(minutes=1), "one")
    assert await fire_once(db, Bus()) == 1
    assert await fire_once(db, Bus()) == 0


async def test_a_moment_fires_once_and_is_over(db: Database, conn: asyncpg.Connection) -> None:
    soon = await conn.fetchval("select to_char(now() + interval '1 hour', 'YYYY-MM-DD\"T\"HH24:MI:SSOF')")
    await declare(conn, {"once": {"at": f"{soon}:00" if soon[-3] in "+-" else soon}})
    await conn.execute(
        """update ingestd.schedule set rule = 'at ' || to_char(now() - interval '1 second', 'YYYY-MM-DD"T"HH24:MI:SS') || '+00:00',
           since = now() - interval '1 hour', accounted_to = now() - interval '1 hour', next_due_at = now() - interval '1 second'"""
    )
    assert await fire_once(db, Bus()) == 1
    assert await conn.fetchval("select next_due_at is null from ingestd.schedule")


@pytest.mark.parametrize("attempt", range(2))
async def test_stopping_leaves_no_timer_behind(db: Database, attempt: int) -> None:
    before = len(asyncio.all_tasks())
    async with running(Scheduler(db, Bus())):
        pass
    await eventually(lambda: len(asyncio.all_tasks()) <= before)
