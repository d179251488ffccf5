"""The heartbeat's thread: it beats while the main loop is busy, and stops beating when that has stood still for too long."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from ingestd.events import Bus, Event, LoopFreed
from ingestd.jobs.store import rescue as rescue_store
from ingestd.postgres.pool import Database
from ingestd.work import store
from ingestd.work.heartbeat import BEAT_S, Heartbeat
from ingestd.work.loopwatch import LoopWatch
from ingestd.work.node import NodeIdentity
from tests.support import eventually

LOCK_IS_FREE = "select case when pg_try_advisory_lock(lock_key) then pg_advisory_unlock(lock_key) else false end from ingestd.node"


@asynccontextmanager
async def beating(dsn: str, **options: Any) -> AsyncIterator[tuple[Heartbeat, NodeIdentity, list[Event]]]:
    node, bus, events = NodeIdentity(store=uuid.uuid4()), Bus(), []
    bus.subscribe(events.append)
    db = Database(dsn, application_name=node.application_name)
    heart = Heartbeat(db, node, bus, version="0", duties=["work"], queues=[], kinds=list, admin_url=lambda: None, **options)
    await heart.start()
    try:
        yield heart, node, events
    finally:
        await heart.stop()


def stand_still(seconds: float) -> float:
    """Block the loop, as a careless handler does; returns the moment when it was over."""
    time.sleep(seconds)
    return time.monotonic()


async def test_a_blocked_loop_does_not_stop_the_heart(dsn: str, conn: asyncpg.Connection) -> None:
    async with beating(dsn, blocked_after_s=0.5) as (heart, _, events):
        over = stand_still(2.5 * BEAT_S)
        assert over - heart.last_beat < 2.4 * BEAT_S
        (freed,) = await eventually(lambda: [event for event in events if isinstance(event, LoopFreed)])
        assert freed.seconds > 2 * BEAT_S


async def test_beyond_the_limit_the_beats_end_the_lock_stays_and_both_go_on_later(dsn: str, conn: asyncpg.Connection) -> None:
    async with beating(dsn, stall_limit_s=0.5) as (heart, _, _):
        over = stand_still(3 * BEAT_S)
        assert over - heart.last_beat > 2 * BEAT_S
        assert await conn.fetchval(LOCK_IS_FREE) is False
        await eventually(lambda: heart.silent_s < BEAT_S)


async def test_who_was_buried_by_mistake_registers_again(dsn: str, conn: asyncpg.Connection) -> None:
    async with beating(dsn) as (heart, node, _):
        sessions = heart.sessions
        await store.end(conn, node.id, "dead")
        assert await rescue_store.terminate_backends(conn, node.application_name) == 1
        # A beat between the two registers it as well, with the session that is about to end.
        await eventually(lambda: heart.sessions > sessions, saying="the end of its session")
        await eventually(lambda: conn.fetchval(f"select state = 'running' and not ({LOCK_IS_FREE}) from ingestd.node"))


async def test_a_session_that_ends_is_noticed_before_the_next_beat_is_due(dsn: str, conn: asyncpg.Connection) -> None:
    """Or others would find the lock free for as long as a whole beat."""
    async with beating(dsn) as (heart, node, _):
        took: list[float] = []
        # A machine that is busy with something else is late now and then.
        while len(took) < 5 and not (took and took[-1] < BEAT_S):
            sessions = heart.sessions
            await rescue_store.terminate_backends(conn, node.application_name)
            began = time.monotonic()
            # Once for the end, once for the new one.
            await eventually(lambda sessions=sessions: heart.sessions == sessions + 2)
            took.append(time.monotonic() - began)
            assert await conn.fetchval(LOCK_IS_FREE) is False
        assert took[-1] < BEAT_S, took


async def test_a_blockage_is_told_once_with_its_stack_and_its_end_with_its_length() -> None:
    told: list[tuple[float, str]] = []
    freed: list[float] = []
    watch = LoopWatch(asyncio.get_running_loop(), 0.5, lambda *what: told.append(what), freed.append)
    seen = threading.Event()

    def keep_looking() -> None:
        while not seen.is_set():
            watch.look()
            time.sleep(0.02)

    def blocked_by_this() -> None:
        # The watching thread runs meanwhile.
        time.sleep(2.5)

    looking = asyncio.create_task(asyncio.to_thread(keep_looking), name="looking")
    await asyncio.sleep(0.1)
    blocked_by_this()
    await eventually(lambda: freed)
    seen.set()
    await looking
    await eventually(lambda: watch.lag_ms < 500, saying="a turn in time")
    watch.stop()
    ((seconds, stack),) = told
    assert 0.5 < seconds < 2.5
    assert "blocked_by_this" in stack
    assert len(freed) == 1
    assert freed[0] > 1.5


async def test_a_blockage_that_nobody_could_watch_is_told_when_it_is_over() -> None:
    """While C code holds the interpreter the watching thread stands still as well."""
    told: list[float] = []
    freed: list[float] = []
    watch = LoopWatch(asyncio.get_running_loop(), 0.5, lambda seconds, _: told.append(seconds), freed.append)
    watch.look()
    await asyncio.sleep(0.1)
    stand_still(1.5)
    await eventually(lambda: watch.silent_s == 0, saying="the turn that was due")
    watch.look()
    watch.stop()
    assert freed[0] > 1.0
    assert not told, "there is no stack of what is over"
