"""What people do to jobs and queues: each an effect and its audit row in one transaction."""

from __future__ import annotations

from datetime import datetime

import asyncpg

from ingestd.access.roles import Actor
from ingestd.access.store import record_audit
from ingestd.errors import Conflict, NotFound
from ingestd.jobs.enqueue import enqueue, require_kind
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.store import history, jobs, queues
from ingestd.settings import did_you_mean


async def enqueue_job(conn: asyncpg.Connection, actor: Actor, job: NewJob, *, allow_unknown: bool = False) -> int:
    """Enqueue one job for a person or program.

    Raises:
        InvalidInput: no node ever published this kind, or its queue does not exist.
    """
    async with conn.transaction():
        if not allow_unknown:
            await require_kind(conn, job.kind)
        (job_id,) = await enqueue(conn, [job])
        await record_audit(conn, actor, "enqueue", "job", job_id, {"kind": job.kind})
    return job_id


async def retry_job(conn: asyncpg.Connection, actor: Actor, job_id: int, run_at: datetime | None = None) -> None:
    """Bring a failed or cancelled job back into the queue under its own id.

    Raises:
        NotFound: there is no such job.
        Conflict: it is open, or it succeeded.
    """
    async with conn.transaction():
        if not await history.revive(conn, job_id, run_at):
            state = await _state(conn, job_id)
            raise Conflict(f"job {job_id} is {state}: only failed and cancelled jobs can be retried", current_state=state)
        await record_audit(conn, actor, "retry", "job", job_id)


async def cancel_job(conn: asyncpg.Connection, actor: Actor, job_id: int) -> str:
    """Cancel a waiting job now, or ask the node that runs it to.

    Returns:
        `cancelled`, or `cancelling` where it runs.

    Raises:
        NotFound: there is no such job.
        Conflict: it is final.
    """
    async with conn.transaction():
        if await history.end_waiting(conn, job_id, State.CANCELLED, f"cancelled by {actor.name}"):
            done = "cancelled"
        elif await jobs.ask_cancel(conn, job_id):
            done = "cancelling"
        else:
            state = await _state(conn, job_id)
            raise Conflict(f"job {job_id} is {state}: there is nothing to cancel", current_state=state)
        await record_audit(conn, actor, "cancel", "job", job_id)
    return done


async def _state(conn: asyncpg.Connection, job_id: int) -> str:
    state = await history.find_state(conn, job_id)
    if state is None:
        raise NotFound(f"there is no job {job_id}")
    return state


async def pause_queue(conn: asyncpg.Connection, actor: Actor, name: str) -> None:
    """Stop claiming from a queue; jobs that run go on. Pausing twice changes nothing."""
    await _require_queue(conn, name)
    async with conn.transaction():
        if await queues.pause_queue(conn, name, actor.name):
            await record_audit(conn, actor, "pause", "queue", name)


async def resume_queue(conn: asyncpg.Connection, actor: Actor, name: str) -> None:
    """Claim from a queue again."""
    await _require_queue(conn, name)
    async with conn.transaction():
        if await queues.resume_queue(conn, name):
            await record_audit(conn, actor, "resume", "queue", name)


async def _require_queue(conn: asyncpg.Connection, name: str) -> None:
    if not await queues.queue_exists(conn, name):
        known = [row["name"] for row in await queues.queues(conn)]
        raise NotFound(f'there is no queue "{name}"{did_you_mean(name, known)}')
