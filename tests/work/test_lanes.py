"""Queues beside each other, priorities within one, and limits as workers keep them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.settings import QueueSettings
from ingestd.jobs.store.queues import declare_queue, pause_queue, resume_queue
from ingestd.postgres.pool import Database
from tests.jobs.limit_lab import register
from tests.support import CROWDED, LONG, eventually
from tests.work.conftest import handler, working
from tests.work.test_wakeups import listening


async def put(db: Database, *jobs: NewJob) -> list[int]:
    async with db.services() as conn:
        return await enqueue(conn, jobs)


async def declare(db: Database, name: str, **settings: Any) -> None:
    async with db.services() as conn:
        await declare_queue(conn, name, QueueSettings(**settings))


async def test_ten_thousand_long_jobs_of_one_queue_do_not_delay_a_job_of_another(db: Database) -> None:
    gate = asyncio.Event()
    mailed: list[float] = []

    async def long(ctx: Any) -> None:
        await gate.wait()

    async def mail(ctx: Any) -> None:
        mailed.append(time.monotonic())

    await put(db, *[NewJob("long", queue="imports", priority=100) for _ in range(10_000)])
    async with working(db, handler("long", long), handler("mail", mail)) as bench, listening(db, bench):
        await eventually(lambda: bench.worker.running == 2)
        waits = []
        for n in range(10):
            began = time.monotonic()
            await put(db, NewJob("mail", queue="alerts"))
            await eventually(lambda n=n: len(mailed) == n + 1)  # type: ignore[misc]
            waits.append(mailed[-1] - began)
        gate.set()
    assert sorted(waits)[5] < 0.5 * CROWDED, waits


async def test_low_jobs_get_their_share_of_a_queue_that_is_never_without_urgent_ones(db: Database) -> None:
    order: list[str] = []

    async def note(ctx: Any, what: str) -> None:
        order.append(what)
        await asyncio.sleep(0.003)

    await put(db, *[NewJob("note", {"what": "low"}, priority=-10) for _ in range(100)])
    await put(db, *[NewJob("note", {"what": "high"}, priority=10) for _ in range(3000)])
    async with working(db, handler("note", note), slots={"default": 4}):
        await eventually(lambda: order.count("low") == 100)
    # A tenth of what runs, or a little more than that while the first of them are on their way.
    last_low = max(n for n, what in enumerate(order) if what == "low")
    assert last_low < 1500, last_low


async def test_two_workers_keep_a_global_limit_and_use_all_of_it(db: Database) -> None:
    running, peak, done = 0, [0], []

    async def count(ctx: Any) -> None:
        nonlocal running
        running += 1
        peak.append(running)
        await asyncio.sleep(0.02)
        running -= 1
        done.append(time.monotonic())

    await declare(db, "narrow", concurrency=8, global_concurrency=3)
    await put(db, *[NewJob("count", queue="narrow") for _ in range(60)])
    slots = {"narrow": 8}
    async with working(db, handler("count", count), slots=slots) as one, working(db, handler("count", count), slots=slots) as two:
        async with db.services() as conn:
            for bench in (one, two):
                await register(conn, bench.node.id)
        await eventually(lambda: len(done) == 60)
    assert max(peak) == 3
    # Sixty jobs of 20 ms in threes are 0.4 s; a place that is left until the next sweep costs a second each.
    assert done[-1] - done[0] < 16


async def test_a_rate_limited_queue_sleeps_until_its_next_permit(db: Database) -> None:
    began: list[float] = []

    async def note(ctx: Any) -> None:
        began.append(time.monotonic())

    await declare(db, "narrow", concurrency=8, rate="5/1s")
    async with working(db, handler("note", note), slots={"narrow": 8}) as bench:
        async with db.services() as conn:
            await register(conn, bench.node.id)
        await put(db, *[NewJob("note", queue="narrow") for _ in range(15)])
        await eventually(lambda: len(began) == 15)
        (lane,) = bench.worker.claimer.lanes.values()
    # Permits are given when jobs are claimed; on a busy machine one starts later after that than another.
    assert min(later - earlier for earlier, later in zip(began, began[5:], strict=False)) > (0.95 if LONG else 0.5)
    took = began[-1] - began[0]
    assert 1.9 < took < 6 * CROWDED
    # A few looks a second, those of the sweep included; one that polled would have asked hundreds of times.
    assert lane.cursor.claims < 40 + 10 * took


async def test_a_limit_that_is_set_or_lifted_takes_effect_at_once(db: Database) -> None:
    gate = asyncio.Event()

    async def hold(ctx: Any) -> None:
        await gate.wait()

    await declare(db, "narrow", concurrency=8, global_concurrency=2)
    async with working(db, handler("hold", hold), slots={"narrow": 8}) as bench:
        async with db.services() as conn:
            await register(conn, bench.node.id)
        await put(db, *[NewJob("hold", queue="narrow") for _ in range(10)])
        await eventually(lambda: bench.worker.running == 2)
        await declare(db, "narrow", concurrency=8, global_concurrency=5)
        await eventually(lambda: bench.worker.running == 5)
        await declare(db, "narrow", concurrency=8)
        await eventually(lambda: bench.worker.running == 8)
        gate.set()


async def test_resume_wakes_nodes_long_before_their_next_look(db: Database) -> None:
    began: list[float] = []

    async def note(ctx: Any) -> None:
        began.append(time.monotonic())

    async with working(db, handler("note", note)) as bench, listening(db, bench):
        for n in range(1, 6):
            async with db.services() as conn:
                await pause_queue(conn, "default", "somebody")
            lane = await eventually(lambda: next((one for one in bench.worker.claimer.lanes.values() if one.name == "default"), None))
            await eventually(lambda lane=lane: lane.paused)  # type: ignore[misc]
            await put(db, NewJob("note"))
            assert len(began) == n - 1
            async with db.services() as conn:
                await resume_queue(conn, "default")
            resumed = time.monotonic()
            await eventually(lambda n=n: len(began) == n)  # type: ignore[misc]
            began[-1] -= resumed
    assert sorted(began)[2] < 0.5 * CROWDED


@pytest.mark.parametrize("suspect", [True, False])
async def test_a_limited_queue_runs_suspects_too_and_within_its_limit(db: Database, suspect: bool) -> None:
    running, peak, done = 0, [0], []

    async def count(ctx: Any) -> None:
        nonlocal running
        running += 1
        peak.append(running)
        await asyncio.sleep(0.005)
        running -= 1
        done.append(ctx.job.id)

    await declare(db, "narrow", concurrency=8, global_concurrency=1)
    ids = await put(db, *[NewJob("count", queue="narrow") for _ in range(4)])
    if suspect:
        async with db.services() as conn:
            await conn.execute("update ingestd.job set crashes = 1 where id = any ($1::bigint[])", ids[:2])
    async with working(db, handler("count", count), slots={"narrow": 8}) as bench:
        async with db.services() as conn:
            await register(conn, bench.node.id)
        await eventually(lambda: sorted(done) == ids)
    assert max(peak) == 1
