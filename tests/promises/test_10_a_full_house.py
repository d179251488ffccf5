"""Promise 10 with everything under way at once: twenty jobs, a load, and five who follow events."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import asyncpg
import pytest

from tests.daemon import readings
from tests.daemon.harness import Daemon, Site
from tests.faults import ledger
from tests.support import CROWDED, eventually

DRAIN_S, FORCED_S = 3.0, 5.0
# Closing everything comes after the jobs; a machine that is busy with other tests is slower.
CLOSING_S = 5.0
JOBS, FOLLOWERS, ROWS = 20, 5, 5_000
SETTINGS = 'handlers = ["tests.daemon.jobs"]\ndrain_timeout = "{}"'
QUEUE = f"[queues.default]\nconcurrency = {JOBS}\n"
TABLE = "create table public.readings (meter_id int, reading bigint, value numeric, note text, primary key (meter_id, reading))"
STARTED = "select cardinality(started) >= $1 from ingestd.node_progress"
LOAD_WAITS = """
select 1 from pg_stat_activity
where datname = current_database() and application_name like 'ingestd:%:loader' and wait_event_type = 'Lock'"""
OPEN = "select count(*) as n, count(claim) as held, max(crashes) as crashes, max(parked) as parked from ingestd.job"
SPENT = "select id, kind, state, attempt, crashes from ingestd.history where attempt <> 1 or crashes > 0 or state <> 'succeeded'"


@asynccontextmanager
async def followers(daemon: Daemon) -> AsyncIterator[list[asyncio.Task[bytes]]]:
    """Streams of events; each task ends with what came last, when its stream ends."""
    headers = {"Accept": "text/event-stream"}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), headers=headers) as session:
        streams = [await session.get(f"{daemon.url}/api/v1/events") for _ in range(FOLLOWERS)]
        assert [stream.status for stream in streams] == [200] * FOLLOWERS
        tasks = [asyncio.create_task(last_words(stream), name="follower") for stream in streams]
        yield tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def last_words(stream: aiohttp.ClientResponse) -> bytes:
    last = b""
    async for chunk in stream.content.iter_any():
        last = chunk
    return last


@pytest.mark.parametrize("signals", [1, 2], ids=["one SIGTERM", "two"])
async def test_with_all_hands_full_it_ends_in_time_and_everything_is_done_once(site: Site, conn: asyncpg.Connection, signals: int) -> None:
    site.configure(readings.IMPORT + QUEUE, daemon=SETTINGS.format(f"{DRAIN_S}s" if signals == 1 else "10m"))
    await conn.execute(TABLE)
    await ledger.open_ledger(conn)
    daemon = await site.start()
    soon, later = site.folder / "soon", site.folder / "later"
    enqueue = "select ingestd.enqueue('until_file', jsonb_build_object('path', $1::text))"
    ids = [await conn.fetchval(enqueue, str(soon if number % 2 else later)) for number in range(JOBS)]
    async with followers(daemon) as streams, site.connection() as holder:
        async with holder.transaction():
            # Nobody may write to the table: the load is under way for as long as it takes.
            await holder.execute("lock table public.readings in share mode")
            await readings.put_readings(site, "some.csv", ROWS)
            await eventually(lambda: conn.fetchval(LOAD_WAITS), saying="the load is under way")
            await eventually(lambda: conn.fetchval(STARTED, JOBS + 1), saying="all jobs have begun")
            daemon.signal(signal.SIGTERM)
            began = time.monotonic()
            await eventually(lambda: daemon.events("NodeDraining"))
            if signals == 1:
                soon.touch()
                assert await daemon.ended(DRAIN_S + CLOSING_S) == 0
                finished = JOBS // 2
            else:
                daemon.signal(signal.SIGTERM)
                assert await daemon.ended() == 75
                assert time.monotonic() - began < FORCED_S * CROWDED
                finished = 0
        async with asyncio.timeout(90):
            assert len(await asyncio.gather(*streams, return_exceptions=True)) == FOLLOWERS
    left = await conn.fetchrow(OPEN)
    assert left is not None
    assert dict(left) == {"n": JOBS + 1 - finished, "held": 0, "crashes": 0, "parked": 0}
    assert await conn.fetchval("select max(attempt) from ingestd.job") == 0

    soon.touch()
    later.touch()
    again = await site.start()
    await readings.all_loaded(site, "some.csv")
    await eventually(lambda: conn.fetchval("select count(*) = $1 from ingestd.history where id = any ($2)", JOBS, ids))
    await ledger.assert_exactly_once_of(conn, ids)
    assert await conn.fetchval("select count(*) from public.readings") == ROWS
    spent = [dict(row) for row in await conn.fetch(SPENT)]
    assert spent == [], spent
    assert await again.stop() == 0
