"""Runs of schedules, imports, workflows and kinds, put in place directly, and the shape in which they are told."""

from __future__ import annotations

from typing import Any

import asyncpg

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.store.ack import ack
from tests.admin.rows import fail_job, finish_job, new_load, take
from tests.schedule.conftest import declare

THINGS = [("schedule", "nightly"), ("import", "readings"), ("workflow", "market"), ("kind", "sync_prices")]
PATHS = {"schedule": "schedules", "import": "imports", "workflow": "workflows", "kind": "kinds"}
RUN = {
    "id", "state", "due_at", "started_at", "finished_at", "duration_ms", "triggered_by", "job_id", "subject", "reason", "error", "counts",
}  # fmt: skip
STATISTICS = {
    "type", "name", "days", "timezone", "from", "to", "runs", "by_state", "success_rate", "duration_ms", "consecutive_failures",
    "last_success_at", "last_failure_at", "totals", "timeline",
}  # fmt: skip
STATUS = {
    "type", "name", "state", "healthy", "problems", "enabled", "paused", "paused_by", "running_job_id", "running", "next_due_at",
    "last_run", "consecutive_failures", "last_success_at", "last_failure_at",
}  # fmt: skip


async def new_slot(conn: asyncpg.Connection, schedule: str, minutes_ago: int, state: str, ended: str | None = None, **more: Any) -> None:
    """A slot as the scheduler and the watch of slots leave it."""
    job = await conn.fetchval("select nextval('ingestd.job_id_seq')") if ended or more.get("with_job") else None
    await conn.execute(
        """insert into ingestd.slot (schedule, due_at, state, reason, job_id, ended, started_at, ended_at, duration_ms, slots)
        select $1, due, $3, $4, $5::bigint, $6::text, case when $6 is not null then due end,
               case when $6 is not null then due + interval '1 s' end,
               case when $6 is not null then 1000 end, $7::integer from (select now() - $2::integer * interval '1 min' as due) d""",
        schedule, minutes_ago, state, more.get("reason"), job, ended, more.get("slots", 1),
    )  # fmt: skip


async def new_run(conn: asyncpg.Connection, workflow: str, state: str, failed: str | None = None) -> int:
    """A run of a workflow with two steps, ended unless it is open."""
    run: int = await conn.fetchval(
        """insert into ingestd.workflow_run (workflow, state, definition, triggered_by, created_at, finished_at)
        values ($1, $2, '{}', 'api', now() - interval '5 s', case when $2 in ('running', 'waiting') then null else now() end)
        returning id""",
        workflow, state,
    )  # fmt: skip
    for position, step in enumerate(("fetch", "merge")):
        done = ("failed", "it broke") if step == failed else ("succeeded", None)
        await conn.execute(
            "insert into ingestd.workflow_step (run, step, position, state, reason) values ($1, $2, $3, $4, $5)", run, step, position, *done
        )
    return run


async def new_job(conn: asyncpg.Connection, kind: str, ends: str | None = None) -> int:
    """A job that ended that way, or is open."""
    (job,) = await enqueue(conn, [NewJob(kind)])
    if ends == "succeeded":
        await finish_job(conn, job)
    elif ends == "failed":
        await fail_job(conn, job)
    elif ends is not None:
        result = await take(conn, job)
        result.state = State.CANCELLED if ends == "cancelled" else State.SUCCEEDED
        result.partial = ends == "partial"
        await ack(conn, [result])
    return job


async def three_of_everything(conn: asyncpg.Connection) -> None:
    """Of everything: one that failed, one that succeeded, and one that failed after it."""
    await declare(conn, {"nightly": {"cron": "0 2 * * *", "timezone": "Asia/Kathmandu"}})
    for number, ended in enumerate(("failed", "succeeded", "failed")):
        await new_slot(conn, "nightly", 10 - number, "fired", ended)
        await new_load(conn, "readings", f"{number}.csv", status=ended, read=4, inserted=4)
        await new_run(conn, "market", ended, "merge" if ended == "failed" else None)
        await new_job(conn, "sync_prices", ended)
