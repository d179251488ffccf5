"""Jobs that go on although they were told to end: they keep their claim, and harm nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from ingestd.events import Notice
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.store.reads import show_job
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from ingestd.work.runner import Interrupted
from tests.support import eventually
from tests.work.conftest import Workbench, handler, working

SOON = timedelta(milliseconds=50)
ONE_SLOT = {"default": 1}


async def put(db: Database, kind: str) -> int:
    async with db.services() as conn:
        (job_id,) = await enqueue(conn, [NewJob(kind)])
    return job_id


async def state(db: Database, job_id: int) -> str:
    async with db.services() as conn:
        found = await show_job(conn, job_id)
    assert found is not None
    return str(found["state"])


def reported(bench: Workbench, job_id: int) -> list[Notice]:
    return [
        event for event in bench.events if isinstance(event, Notice) and event.details.get("job_id") == job_id and "stack" in event.details
    ]


async def quick(ctx: Context) -> None: ...


class Deaf:
    """A coroutine that swallows its cancellation until it is let go."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.heard = 0

    async def swallow(self, ctx: Context) -> dict[str, int]:
        while not self.go_on.is_set():
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.heard += 1
        return {"heard": self.heard}


@pytest.fixture
async def deaf() -> AsyncIterator[Deaf]:
    """Let go in the end, whatever became of the test: nothing else would end it."""
    made = Deaf()
    yield made
    made.go_on.set()


async def test_a_coroutine_that_swallows_its_cancellation_gives_up_its_slot_and_keeps_its_claim(db: Database, deaf: Deaf) -> None:
    spec = handler("deaf", deaf.swallow, timeout=SOON)
    async with working(db, spec, handler("quick", quick), slots=ONE_SLOT) as bench:
        bench.worker.patience_s = 0.2
        deaf_id = await put(db, "deaf")
        notices = await eventually(lambda: reported(bench, deaf_id))
        assert "in swallow" in notices[0].details["stack"]
        # Its only slot has been replaced: others run.
        await eventually(_is(db, await put(db, "quick"), "succeeded"))
        assert await state(db, deaf_id) == "running"
        async with db.services() as conn:
            shown = await eventually(
                lambda: conn.fetchval("select progress -> $1::text ->> 'text' from ingestd.node_progress", str(deaf_id))
            )
        assert "goes on although it was told to end" in shown
        deaf.go_on.set()
        await eventually(_is(db, deaf_id, "succeeded"))
        await eventually(_is(db, await put(db, "quick"), "succeeded"))
        assert len(reported(bench, deaf_id)) == 1
        lane = next(iter(bench.worker.claimer.lanes.values()))
        assert (lane.consumers, lane.running, len(bench.worker._slots)) == (1, 0, 1)


def _is(db: Database, job_id: int, wanted: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return await state(db, job_id) == wanted

    return look


async def test_what_it_finally_does_is_fenced_like_anything_else(db: Database, deaf: Deaf) -> None:
    async with working(db, handler("deaf", deaf.swallow, timeout=SOON)) as bench:
        bench.worker.patience_s = 0.2
        deaf_id = await put(db, "deaf")
        await eventually(lambda: reported(bench, deaf_id))
        async with db.services() as conn:
            # By another node: a claim of its own that it knows nothing of this one would give back.
            await conn.execute("update ingestd.job set claim = gen_random_uuid(), node = gen_random_uuid() where id = $1", deaf_id)
        deaf.go_on.set()
        await eventually(lambda: deaf_id not in bench.worker.running_jobs())
        await bench.worker.acker.flush()
        assert await state(db, deaf_id) == "running"


async def test_a_drain_does_not_wait_for_it_and_hands_it_back(db: Database, deaf: Deaf) -> None:
    async with working(db, handler("deaf", deaf.swallow, timeout=SOON)) as bench:
        bench.worker.patience_s = 0.2
        deaf_id = await put(db, "deaf")
        await eventually(lambda: reported(bench, deaf_id))
        async with asyncio.timeout(20):
            await bench.worker.drain(3600, asyncio.Event())
        assert await state(db, deaf_id) == "available"
        deaf.go_on.set()
        await eventually(lambda: not bench.worker.running_jobs())
        assert await state(db, deaf_id) == "available"


@pytest.mark.parametrize("why", [Interrupted.CANCEL, Interrupted.STUCK])
async def test_a_thread_that_looks_at_nothing_is_reported_with_where_it_is(db: Database, why: str) -> None:
    go_on = threading.Event()

    def deaf(ctx: Any) -> None:
        go_on.wait(60)

    async with working(db, handler("deaf", deaf, executor="thread"), handler("quick", quick), slots=ONE_SLOT) as bench:
        bench.worker.patience_s = 0.2
        deaf_id = await put(db, "deaf")
        await eventually(lambda: deaf_id in bench.worker.running_jobs())
        assert bench.worker.interrupt(deaf_id, why)
        assert not bench.worker.interrupt(deaf_id, why)
        notices = await eventually(lambda: reported(bench, deaf_id))
        assert "in deaf" in notices[0].details["stack"]
        await eventually(_is(db, await put(db, "quick"), "succeeded"))
        go_on.set()
        # It ended as it would have: nobody could stop it.
        await eventually(_is(db, deaf_id, "succeeded"))


async def test_a_stuck_job_fails_as_stuck_and_is_tried_again(db: Database) -> None:
    async def hangs(ctx: Context) -> None:
        if ctx.job.attempt == 1:
            await asyncio.Event().wait()

    from ingestd.jobs.backoff import Backoff

    async with working(db, handler("hangs", hangs, backoff=Backoff(base="10ms", jitter=0))) as bench:
        job_id = await put(db, "hangs")
        await eventually(lambda: job_id in bench.worker.running_jobs())
        assert "wait" in await bench.worker.running_jobs()[job_id].stack()
        assert bench.worker.interrupt(job_id, Interrupted.STUCK)
        await eventually(_is(db, job_id, "succeeded"))
        async with db.services() as conn:
            (first, _) = await conn.fetchval("select attempts from ingestd.history where id = $1", job_id)
    assert (first["error"]["class"], first["outcome"]) == ("stuck", "retry")
