"""Cancelling what a node holds, begun or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ingestd.access.roles import Actor
from ingestd.jobs.actions import cancel_job, pause_queue, resume_queue
from ingestd.jobs.backoff import Backoff
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob, Snooze
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from tests.support import eventually
from tests.work.conftest import Workbench, handler, working
from tests.work.test_worker import put, state_is

ME = Actor("me", "operator", "cli")


async def cancel(db: Database, job_id: int) -> str:
    async with db.services() as conn:
        return await cancel_job(conn, ME, job_id)


@pytest.mark.parametrize("how", ["fails", "sleeps"])
async def test_a_job_that_fails_or_sleeps_before_it_hears_of_its_cancel_does_not_begin_again(db: Database, how: str) -> None:
    began: list[int] = []
    go = asyncio.Event()

    async def deaf(ctx: Context) -> Snooze:
        began.append(ctx.job.attempt)
        await go.wait()
        if how == "fails":
            raise ValueError("no luck")
        return Snooze("1ms")

    async with working(db, handler("deaf", deaf, backoff=Backoff(base_s=0.001, jitter=0))) as bench:
        bench.worker.reporter.stop()
        (job_id,) = await put(db, NewJob("deaf"))
        await eventually(lambda: began)
        assert await cancel(db, job_id) == "cancelling"
        go.set()
        done = await state_is(db, job_id, "cancelled")
    assert began == [1]
    if how == "fails":
        assert (done["error"]["message"], [entry["outcome"] for entry in done["attempts"]]) == ("no luck", ["cancelled"])


@asynccontextmanager
async def one_slot(db: Database) -> AsyncIterator[tuple[Workbench, asyncio.Event, list[int]]]:
    """A worker with one slot; what lets its jobs of the kind "wait" end, and the jobs of the kind "note" that have begun."""
    began: list[int] = []
    go = asyncio.Event()

    async def wait(ctx: Context) -> None:
        await go.wait()

    async def note(ctx: Context) -> None:
        began.append(ctx.job.id)

    async with working(db, handler("wait", wait), handler("note", note), slots={"default": 1}) as bench:
        await eventually(lambda: bench.worker.claimer.lanes)
        yield bench, go, began


async def claimed_ahead(bench: Workbench, db: Database, first: str, *, crashes: int = 0) -> int:
    """A job that the only slot's node holds, and that waits for the one that runs; its id."""
    lane = next(iter(bench.worker.claimer.lanes.values()))
    # Jobs so short that some are claimed ahead, as far as it knows.
    lane.job_s = 0.001
    await put(db, NewJob(first))
    await eventually(lambda: bench.worker.running == 1)
    async with db.services() as conn, conn.transaction():
        (job_id,) = await enqueue(conn, [NewJob("note")])
        await conn.execute("update ingestd.job set crashes = $2 where id = $1", job_id, crashes)
    bench.worker.wake()
    await eventually(lambda: lane.held == 1)
    return job_id


async def test_a_job_that_was_claimed_ahead_and_is_cancelled_never_begins(db: Database) -> None:
    async with one_slot(db) as (bench, go, began):
        job_id = await claimed_ahead(bench, db, "wait")
        assert await cancel(db, job_id) == "cancelling"
        await state_is(db, job_id, "cancelled")
        go.set()
        (last,) = await put(db, NewJob("note"))
        await state_is(db, last, "succeeded")
    assert began == [last]


async def test_a_suspect_that_was_handed_back_unstarted_keeps_no_other_from_running(db: Database) -> None:
    async with one_slot(db) as (bench, go, _):
        suspect = await claimed_ahead(bench, db, "wait", crashes=1)
        async with db.services() as conn:
            await pause_queue(conn, ME, "default")
            await state_is(db, suspect, "available")
            await resume_queue(conn, ME, "default")
        go.set()
        await state_is(db, suspect, "succeeded")


async def test_a_suspect_that_was_cancelled_before_it_began_keeps_no_other_from_running(db: Database) -> None:
    async with one_slot(db) as (bench, go, _):
        suspect = await claimed_ahead(bench, db, "wait", crashes=1)
        await cancel(db, suspect)
        await state_is(db, suspect, "cancelled")
        async with db.services() as conn, conn.transaction():
            (other,) = await enqueue(conn, [NewJob("note")])
            await conn.execute("update ingestd.job set crashes = 1 where id = $1", other)
        go.set()
        await state_is(db, other, "succeeded")
