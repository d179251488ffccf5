"""The watchdog: stuck jobs are ended and fail as such, slow ones are told once, and whoever reports progress is left alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.events import JobSlow, JobStuck
from ingestd.jobs.backoff import Backoff
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store import statistics
from ingestd.postgres.pool import Database
from ingestd.service import Poller
from ingestd.work.context import Context
from ingestd.work.watchdog import DEADLINE_GRACE_S, LEAST_RUNS, Verdict, Watchdog, judge, usual_s
from tests.support import eventually
from tests.work.conftest import Workbench, handler, working

SETTINGS: dict[str, Any] = {"deadline_s": None, "stuck_after_s": 3600.0, "usual_s": None}
AT_ONCE = Backoff(base_s=0.05, jitter=0)


@pytest.mark.parametrize(
    ("ran_s", "silent_s", "limits", "state"),
    [
        (10_000, 10, {}, "fine"),
        (3601, 3601, {}, "stuck"),
        (10 + DEADLINE_GRACE_S - 1, 100, {"deadline_s": 10}, "fine"),
        (10 + DEADLINE_GRACE_S + 1, 100, {"deadline_s": 10}, "stuck"),
        (10 + DEADLINE_GRACE_S + 1, 1, {"deadline_s": 10}, "fine"),
        (29, 29, {"usual_s": 10}, "fine"),
        (31, 31, {"usual_s": 10}, "slow"),
        (0.5, 0.5, {"usual_s": 0.001}, "fine"),
        (3601, 3601, {"usual_s": 10}, "stuck"),
    ],
)
def test_a_job_is_judged_by_time_and_progress(ran_s: float, silent_s: float, limits: dict[str, float], state: str) -> None:
    assert judge(ran_s, silent_s, **(SETTINGS | limits)).state == state


def test_a_fine_job_needs_no_reason() -> None:
    assert judge(1, 1, **SETTINGS) == Verdict("fine")


def test_what_is_usual_is_what_99_of_100_stay_under_and_needs_20_runs() -> None:
    assert usual_s({0: LEAST_RUNS - 1}) is None
    assert usual_s({0: LEAST_RUNS}) == 0.001
    assert usual_s({3: 99, 14: 1}) == 0.008
    assert usual_s({3: 90, 14: 10}) == 16.384
    assert usual_s({statistics.LAST_BUCKET: 30}) is None


@asynccontextmanager
async def watched(db: Database, *specs: HandlerSpec, stuck_after_s: float = 3600.0) -> AsyncIterator[Workbench]:
    async with working(db, *specs) as bench:
        dog = Watchdog(db, bench.bus, bench.registry, bench.worker.running_jobs, bench.worker.interrupt, stuck_after_s)
        bench.dog = dog  # type: ignore[attr-defined]
        poller = Poller("watchdog", dog.poll, bench.bus)
        task = asyncio.create_task(poller.run(), name="watchdog")
        try:
            yield bench
        finally:
            poller.stop()
            await task


async def forever(ctx: Context) -> None:
    await asyncio.Event().wait()


def told(bench: Workbench, kind: type[Any]) -> list[Any]:
    return [event for event in bench.events if isinstance(event, kind)]


async def test_a_job_without_progress_is_ended_fails_as_stuck_and_is_retried(db: Database, conn: asyncpg.Connection) -> None:
    (job_id,) = await enqueue(conn, [NewJob("forever", max_attempts=2)])
    async with watched(db, handler("forever", forever, backoff=AT_ONCE), stuck_after_s=0.2) as bench:
        row = await eventually(lambda: conn.fetchrow("select state, error, attempts from ingestd.history where id = $1", job_id))
    assert row["state"] == "failed"
    assert row["error"]["class"] == "stuck"
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["retry", "failed"]
    stuck = told(bench, JobStuck)
    assert [event.job_id for event in stuck] == [job_id, job_id]
    assert "forever" in stuck[0].stack


async def test_a_kind_may_be_more_patient_than_the_daemon(db: Database, conn: asyncpg.Connection) -> None:
    patient, hasty = await enqueue(conn, [NewJob("patient"), NewJob("hasty", max_attempts=1)])
    specs = [handler("patient", forever, stuck_after=timedelta(hours=1)), handler("hasty", forever)]
    async with watched(db, *specs, stuck_after_s=0.2):
        await eventually(lambda: conn.fetchval("select state from ingestd.history where id = $1", hasty))
        assert await conn.fetchval("select claim is not null from ingestd.job where id = $1", patient)


@pytest.mark.parametrize("how", ["progress", "step"])
async def test_a_job_that_reports_progress_is_never_stuck(db: Database, conn: asyncpg.Connection, how: str) -> None:
    end = asyncio.Event()

    async def busy(ctx: Context) -> None:
        while not end.is_set():
            if how == "progress":
                ctx.progress(None, "still at it")
            else:
                async with ctx.step({"still": "at it"}):
                    pass
            await asyncio.sleep(0.02)

    busy_id, idle_id = await enqueue(conn, [NewJob("busy", max_attempts=1), NewJob("idle", max_attempts=1)])
    async with watched(db, handler("busy", busy), handler("idle", forever), stuck_after_s=3.0):
        await eventually(lambda: conn.fetchval("select state from ingestd.history where id = $1", idle_id))
        end.set()
        assert await eventually(lambda: conn.fetchval("select state from ingestd.history where id = $1", busy_id)) == "succeeded"


async def test_a_job_that_takes_far_longer_than_its_kind_does_is_told_of_once_with_its_stack(
    db: Database, conn: asyncpg.Connection
) -> None:
    async def sometimes_waits(ctx: Context, wait: bool = False) -> None:
        if wait:
            await go.wait()

    go = asyncio.Event()
    await enqueue(conn, [NewJob("varies") for _ in range(LEAST_RUNS)])
    async with watched(db, handler("varies", sometimes_waits)) as bench:
        await eventually(lambda: conn.fetchval("select count(*) = $1 from ingestd.history", LEAST_RUNS))
        (job_id,) = await enqueue(conn, [NewJob("varies", {"wait": True})])
        bench.worker.wake()
        slow = await eventually(lambda: told(bench, JobSlow))
        (check,) = await bench.dog.checks(conn)  # type: ignore[attr-defined]
        assert (check.status, f"job {job_id} varies slow" in check.value) == ("degraded", True)
        for _ in range(3):
            await bench.dog.poll()  # type: ignore[attr-defined]
        go.set()
        assert await eventually(lambda: conn.fetchval("select state from ingestd.history where id = $1", job_id)) == "succeeded"
        await bench.dog.poll()  # type: ignore[attr-defined]
        assert [check.status for check in await bench.dog.checks(conn)] == ["healthy"]  # type: ignore[attr-defined]
    assert [event.job_id for event in told(bench, JobSlow)] == [job_id]
    assert "await go.wait()" in slow[0].stack


async def test_a_thread_past_its_deadline_is_reported_with_where_it_is(db: Database, conn: asyncpg.Connection) -> None:
    go = threading.Event()

    def waits_for_go(ctx: Context) -> None:
        go.wait(60)

    await enqueue(conn, [NewJob("threaded", max_attempts=1)])
    spec = handler("threaded", waits_for_go, executor="thread", stuck_after=timedelta(seconds=0.2))  # type: ignore[arg-type]
    try:
        async with watched(db, spec) as bench:
            (event, *_) = await eventually(lambda: told(bench, JobStuck))
            go.set()
            await eventually(lambda: conn.fetchval("select 1 from ingestd.history"))
    finally:
        go.set()
    assert "go.wait(60)" in event.stack
