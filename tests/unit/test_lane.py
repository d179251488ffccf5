"""The slots of one queue: each job is taken once and soon, and jobs that never wait leave the event loop to others as well."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from ingestd.jobs.model import Job
from ingestd.work.lane import Lane

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Work = Callable[[], Coroutine[Any, Any, None]]


def job(number: int) -> Job:
    return Job(number, "k", "default", {}, 1, 4, 0, NOW, NOW, NOW, uuid.uuid4())


def toil(seconds: float) -> None:
    """Work as a handler does that the event loop hears nothing of meanwhile."""
    time.sleep(seconds)


async def slot(lane: Lane, work: Work, ran: list[int]) -> None:
    while True:
        taken = lane.take()
        if taken is None:
            await lane.wait()
            continue
        began = time.monotonic()
        await work()
        now = time.monotonic()
        lane.ended(now - began, now)
        ran.append(taken.id)


async def until(ready: Callable[[], bool]) -> int:
    """Wait for it; returns how often the event loop came round."""
    turns = 0
    async with asyncio.timeout(30):
        while not ready():
            await asyncio.sleep(0)
            turns += 1
    return turns


@pytest.mark.parametrize("seed", range(12))
async def test_each_job_is_taken_once_however_they_come_and_however_long_they_take(seed: int) -> None:
    rng = random.Random(seed)

    async def work() -> None:
        what = rng.random()
        if what < 0.2:
            toil(0.003)  # longer than a turn
        elif what < 0.6:
            await asyncio.sleep(rng.choice([0, 0, 0.001, 0.004]))

    lane, ran, sent = Lane(1, "default", 3), list[int](), 0
    slots = [asyncio.create_task(slot(lane, work, ran)) for _ in range(3)]
    for _ in range(60):
        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.002]))
        some = rng.choice([1, 1, 2, 9])
        lane.put(job(sent + n) for n in range(some))
        sent += some
    await until(lambda: len(ran) >= sent)
    assert sorted(ran) == list(range(sent))
    assert lane.held == 0
    for each in slots:
        each.cancel()


async def test_jobs_that_never_wait_leave_turns_of_the_event_loop_to_others() -> None:
    async def work() -> None:
        toil(0.0005)

    lane, ran = Lane(1, "default", 4), list[int]()
    slots = [asyncio.create_task(slot(lane, work, ran)) for _ in range(4)]
    await asyncio.sleep(0)
    lane.put(map(job, range(100)))
    assert await until(lambda: len(ran) == 100) > 10
    assert ran == sorted(ran), "in their order"
    for each in slots:
        each.cancel()


async def test_jobs_that_wait_fill_all_slots_at_once() -> None:
    gate = asyncio.Event()

    async def work() -> None:
        await gate.wait()

    lane, ran = Lane(1, "default", 50), list[int]()
    slots = [asyncio.create_task(slot(lane, work, ran)) for _ in range(50)]
    await asyncio.sleep(0)
    lane.put(map(job, range(50)))
    assert await until(lambda: lane.held == 0) < 20
    gate.set()
    await until(lambda: len(ran) == 50)
    for each in slots:
        each.cancel()
