"""What people do to schedules: each an effect and its audit row in one transaction."""

from __future__ import annotations

import asyncpg

from ingestd.access.roles import Actor
from ingestd.access.store import record_audit
from ingestd.errors import Conflict, NotFound
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.schedule.store import declared as store
from ingestd.settings import did_you_mean

_DOORS = ("api", "cli", "page")


async def trigger(conn: asyncpg.Connection, actor: Actor, name: str, reason: str | None = None) -> int:
    """Start a schedule's target now, apart from its slots; it may be paused or disabled.

    Args:
        reason: kept with the job and in the audit log.

    Returns:
        The job's id.

    Raises:
        NotFound: no such schedule.
        Conflict: `overlap = "skip"`, and its last job is still open; names that job.
    """
    async with conn.transaction():
        schedule = await store.hold_one(conn, name)
        if schedule is None:
            raise await _unknown(conn, name)
        busy = await store.open_job(conn, name) if schedule["overlap"] == "skip" else None
        if busy is not None:
            raise Conflict(
                f'schedule "{name}" is still busy with job {busy}',
                current_state="running",
                hint='wait for the job, cancel it, or set overlap = "queue" or "allow"',
            )
        (job_id,) = await enqueue(conn, [_job(actor, schedule, reason)])
        await store.triggered(conn, name, job_id)
        await record_audit(conn, actor, "trigger", "schedule", name, {"job_id": job_id, "reason": reason})
    return job_id


def _job(actor: Actor, schedule: asyncpg.Record, reason: str | None) -> NewJob:
    in_line = f"schedule:{schedule['name']}" if schedule["overlap"] == "queue" else None
    return NewJob(
        kind=schedule["kind"],
        args=schedule["args"],
        queue=schedule["queue"],
        priority=-schedule["rank"],
        max_attempts=schedule["max_attempts"],
        key=schedule["key"] or in_line,
        tags=tuple(schedule["tags"]),
        notes=reason,
        metadata={"schedule": schedule["name"]},
        correlation_id=actor.correlation_id,
        triggered_by=actor.via if actor.via in _DOORS else "api",
    )


async def pause(conn: asyncpg.Connection, actor: Actor, name: str, reason: str | None = None) -> bool:
    """Record a schedule's slots as skipped from now on; survives reloads.

    Returns:
        False if it was paused already.

    Raises:
        NotFound: no such schedule.
    """
    async with conn.transaction():
        if await store.hold_one(conn, name) is None:
            raise await _unknown(conn, name)
        changed = await store.pause(conn, name, actor.name)
        if changed:
            await record_audit(conn, actor, "pause", "schedule", name, {"reason": reason})
    return changed


async def resume(conn: asyncpg.Connection, actor: Actor, name: str) -> bool:
    """Let a schedule's slots fire again, from the next one on.

    Returns:
        False if it was not paused.

    Raises:
        NotFound: no such schedule.
    """
    async with conn.transaction():
        if await store.hold_one(conn, name) is None:
            raise await _unknown(conn, name)
        changed = await store.resume(conn, name)
        if changed:
            await record_audit(conn, actor, "resume", "schedule", name)
    return changed


async def _unknown(conn: asyncpg.Connection, name: str) -> NotFound:
    return NotFound(f'there is no schedule "{name}"{did_you_mean(name, await store.names(conn))}')
