"""A rollup as a step of a workflow."""

from __future__ import annotations

import uuid

import asyncpg

from ingestd.app.targets import target_job
from ingestd.events import Bus
from ingestd.jobs.model import Job, Snooze
from ingestd.jobs.workflow import Step
from ingestd.postgres.pool import Database
from ingestd.postgres.session import connect
from ingestd.rollups.handlers import run
from ingestd.rollups.store import dirty
from ingestd.work.context import Context
from tests.jobs.kit import new, take
from tests.jobs.test_workflow_runs import begin
from tests.rollups.kit import SALES, declared, rollup


async def test_a_step_waits_for_a_refresh_under_way_and_a_job_of_its_own_does_not(db: Database, conn: asyncpg.Connection, dsn: str) -> None:
    """What comes after the step counts on the stored rows; the refresh under way may have begun too early for them."""
    await conn.execute(SALES)
    await declared(conn, hourly=rollup())
    await begin(conn, Step("refresh", target_job("rollup", "hourly")))
    await new(conn, "rollup", args={"name": "hourly"})
    jobs = {job.step: job for job in await take(conn)}
    busy = await connect(dsn)
    try:
        async with busy.transaction():
            assert await dirty.try_lock_rollup(busy, await conn.fetchval("select id from ingestd.rollup"))
            assert isinstance(await run(context(db, jobs["refresh"]), "hourly"), Snooze)
            assert await run(context(db, jobs[None]), "hourly") is None
        assert await conn.fetchval("select step from ingestd.job") == "refresh"
        assert await run(context(db, jobs["refresh"]), "hourly") is None
        assert await conn.fetchval("select result ->> 'busy' from ingestd.workflow_step") == "false"
    finally:
        await busy.close()


def context(db: Database, job: Job) -> Context:
    return Context(job, db, uuid.uuid4(), Bus())
