"""Handlers that run in threads, which nothing can stop."""

from __future__ import annotations

import gc
import threading
from datetime import timedelta

from ingestd.jobs.backoff import Backoff
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from tests.support import eventually
from tests.work.conftest import handler, working

SOON = timedelta(milliseconds=50)


async def test_a_thread_that_outlives_its_timeout_keeps_its_job_until_it_ends(db: Database) -> None:
    go_on = threading.Event()
    runs: list[int] = []

    def slow(ctx: Context) -> None:
        runs.append(ctx.job.attempt)
        go_on.wait(20)

    async def later(ctx: Context) -> None: ...

    spec = handler("slow", slow, executor="thread", timeout=SOON, max_attempts=2, backoff=Backoff(base_s=0.01, jitter=0))
    async with working(db, spec, handler("later", later)):
        async with db.services() as conn:
            (slow_id,) = await enqueue(conn, [NewJob("slow")])
            await eventually(lambda: runs)
            # Each of these waits out the timeout once more.
            for _ in range(3):
                (later_id,) = await enqueue(conn, [NewJob("later", run_at=await conn.fetchval("select now() + $1::interval", SOON))])
                await eventually(lambda later_id=later_id: conn.fetchval("select 1 from ingestd.history where id = $1", later_id))
            assert runs == [1]
            go_on.set()
            state = await eventually(lambda: conn.fetchval("select state from ingestd.history where id = $1", slow_id))
        assert (runs, state) == ([1], "succeeded")


async def test_a_job_that_ended_or_failed_in_a_thread_is_forgotten_without_the_collector(db: Database) -> None:
    ran: list[int] = []

    def works(ctx: Context) -> None:
        ran.append(ctx.job.id)

    def fails(ctx: Context) -> None:
        ran.append(ctx.job.id)
        raise ValueError("no luck")

    gc.collect()
    gc.disable()
    try:
        specs = [handler("works", works, executor="thread"), handler("fails", fails, executor="thread", max_attempts=1)]
        async with working(db, *specs) as bench:
            async with db.services() as conn:
                await enqueue(conn, [NewJob(kind) for kind in ("works", "fails") for _ in range(100)])
            bench.worker.wake()
            await eventually(lambda: len(ran) == 200 and not bench.worker.running and not bench.worker.acker.unwritten)
            # Each slot still holds its last one in a variable.
            assert sum(isinstance(each, Context) for each in gc.get_objects()) < 50
    finally:
        gc.enable()
