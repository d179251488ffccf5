"""What people do with rollups."""

from __future__ import annotations

import asyncpg

from ingestd.access.roles import Actor
from ingestd.access.store import record_audit
from ingestd.errors import Conflict, NotFound
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.rollups.refresh import REFRESHED_FLAGS
from ingestd.rollups.store import registry
from ingestd.settings import did_you_mean

KIND = "rollup"
QUEUE = "rollups"


def refresh_job(name: str, *, triggered_by: str, correlation_id: str | None = None) -> NewJob:
    """The job that refreshes a rollup; while one is open, enqueueing another returns that one."""
    return NewJob(
        KIND,
        {"name": name},
        queue=QUEUE,
        unique_key=f"rollup:{name}",
        triggered_by=triggered_by,
        correlation_id=correlation_id,
    )


async def refresh_now(conn: asyncpg.Connection, actor: Actor, name: str) -> int:
    """Enqueue a refresh of everything that is dirty in a rollup.

    Returns:
        Id of the job; of the open one if there is one.

    Raises:
        NotFound: there is no such rollup.
        Conflict: its flag forbids a refresh, or it waits for its source.
    """
    versions = await registry.rollups_named(conn, name)
    if not versions:
        names = {rollup.name for rollup in await registry.all_rollups(conn) if rollup.stage != "retired"}
        raise NotFound(f'there is no rollup "{name}"{did_you_mean(name, names)}')
    rollup = versions[0]
    if rollup.flag not in REFRESHED_FLAGS:
        raise Conflict(f'rollup "{name}" is not refreshed: its flag is "{rollup.flag}"', current_state=rollup.flag)
    if rollup.state == "waiting":
        raise Conflict(f'rollup "{name}" waits: {rollup.reason or "it is being set up"}', current_state="waiting")
    async with conn.transaction():
        (job_id,) = await enqueue(conn, [refresh_job(name, triggered_by=actor.via, correlation_id=actor.correlation_id)])
        await record_audit(conn, actor, "refresh", "rollup", name, {"job": job_id})
    return job_id
