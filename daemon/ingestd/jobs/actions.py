"""What people do to jobs and queues: each an effect and its audit row in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg

from ingestd.access.roles import Actor
from ingestd.access.store import record_audit
from ingestd.errors import Conflict, InvalidInput, NotFound
from ingestd.jobs.bulk import AT_ONCE, KIND, Bulk, Mark, advance
from ingestd.jobs.changes import check_changes
from ingestd.jobs.enqueue import Enqueued, enqueue, enqueue_told
from ingestd.jobs.handlers import ATTEMPTS
from ingestd.jobs.kinds import require_kind
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.store import bulk as bulk_store
from ingestd.jobs.store import edits, history, queues
from ingestd.jobs.workflow import BUSY_HINT
from ingestd.settings import did_you_mean

# So many more jobs than were shown are no surprise.
DRIFT = 10
# Whoever asks for a bulk waits for it; housekeeping does not mind.
PRIORITY = 10
LOOKS = 3


async def enqueue_job(conn: asyncpg.Connection, actor: Actor, job: NewJob, *, allow_unknown: bool = False) -> Enqueued:
    """Enqueue one job for a person or program.

    Raises:
        InvalidInput: no node ever published this kind, its arguments do not fit, or its queue does not exist.
    """
    async with conn.transaction():
        if not allow_unknown:
            published = await require_kind(conn, job.kind)
            published.check([job.args])
            job = replace(job, kind=published.name)
        (done,) = await enqueue_told(conn, [job])
        await record_audit(conn, actor, "enqueue", "job", done.id, {"kind": job.kind} | ({"existing": True} if done.existing else {}))
    return done


async def retry_job(conn: asyncpg.Connection, actor: Actor, job_id: int, run_at: datetime | None = None) -> None:
    """Bring a failed or cancelled job back into the queue under its own id, or let a retrying one run earlier or later.

    Args:
        run_at: not before; None: now.

    Raises:
        NotFound: there is no such job.
        Conflict: it waits for its first attempt, runs, or succeeded.
    """
    async with conn.transaction():
        await history.lock_runs(conn, job_id)
        state = await history.lock_open(conn, job_id)
        done = await edits.move(conn, [job_id], run_at, only_retrying=True) if state == "waiting" else []
        if not done and (state or not await history.revive(conn, job_id, run_at)):
            state = await _state(conn, job_id)
            hint = "`again` runs it once more as a new job" if state in ("succeeded", "skipped") else None
            message = f"job {job_id} is {state}: only failed and cancelled jobs can be retried, and those that wait for a retry"
            if state in ("failed", "cancelled"):
                message, hint = f"job {job_id} belongs to a workflow run that was taken back", "`workflows retry` starts the run over"
                if busy := await history.busy_with(conn, job_id):
                    message = f'workflow "{busy["workflow"]}" is busy with run {busy["other"]}: run {busy["run"]} cannot go on beside it'
                    hint = BUSY_HINT
            raise Conflict(message, current_state=state, hint=hint)
        await record_audit(conn, actor, "retry", "job", job_id, {"run_at": run_at} if run_at else None)


async def cancel_job(conn: asyncpg.Connection, actor: Actor, job_id: int, *, force: bool = False) -> str:
    """Cancel a waiting job now, or ask the node that runs it to.

    Args:
        force: end a running one at once. Its node learns of it within seconds; what it commits through `ctx` until then is refused.

    Returns:
        `cancelled`, or `cancelling` where it runs.

    Raises:
        NotFound: there is no such job.
        Conflict: it is final.
    """
    async with conn.transaction():
        # Held still: between two looks it might begin, and be neither cancelled nor asked.
        state = await history.lock_open(conn, job_id)
        if state == "waiting" or (state and force):
            done = "cancelled"
            await history.end_all(conn, [job_id], State.CANCELLED, f"cancelled by {actor.name}", force=force)
        elif state:
            done = "cancelling"
            await history.ask_cancel(conn, [job_id])
        else:
            state = await _state(conn, job_id)
            raise Conflict(f"job {job_id} is {state}: there is nothing to cancel", current_state=state)
        await record_audit(conn, actor, "cancel", "job", job_id, {"was": state} | ({"force": True} if force else {}))
    return done


async def run_again(conn: asyncpg.Connection, actor: Actor, job_id: int, run_at: datetime | None = None) -> int:
    """Enqueue a new job with the arguments and options of a finished one, which becomes its parent.

    Returns:
        The new job's id.

    Raises:
        NotFound: there is no such job.
        Conflict: it is open.
    """
    async with conn.transaction():
        made = await history.run_again(conn, [job_id], _word(actor), run_at, actor.correlation_id)
        if not made:
            state = await _state(conn, job_id)
            raise Conflict(f"job {job_id} is {state}: only a finished job can be run again", current_state=state)
        await record_audit(conn, actor, "again", "job", job_id, {"job": made[job_id]})
    return made[job_id]


async def edit_job(conn: asyncpg.Connection, actor: Actor, job_id: int, changes: Mapping[str, Any]) -> None:
    """Change a job that waits.

    Args:
        changes: see `edits.edit`.

    Raises:
        NotFound: there is no such job.
        Conflict: it runs, or it is final.
        InvalidInput: a value makes no sense.
    """
    async with conn.transaction():
        await history.lock_open(conn, job_id)
        await _check_changes(conn, changes, await edits.kind_of(conn, job_id) if "args" in changes else None)
        before = await edits.edit(conn, [job_id], changes)
        if not before:
            state = await _state(conn, job_id)
            raise Conflict(f"job {job_id} is {state}: only a job that waits can be edited", current_state=state)
        await record_audit(conn, actor, "edit", "job", job_id, {"before": before[job_id], "after": dict(changes)})


async def snooze_job(conn: asyncpg.Connection, actor: Actor, job_id: int, run_at: datetime) -> None:
    """Let a waiting job run not before a moment, earlier or later than it would have.

    Raises:
        NotFound: there is no such job.
        Conflict: it runs, or it is final.
    """
    async with conn.transaction():
        await history.lock_open(conn, job_id)
        if not await edits.move(conn, [job_id], run_at):
            state = await _state(conn, job_id)
            raise Conflict(f"job {job_id} is {state}: only a job that waits can be snoozed", current_state=state)
        await record_audit(conn, actor, "snooze", "job", job_id, {"run_at": run_at})


async def delete_job(conn: asyncpg.Connection, actor: Actor, job_id: int) -> str:
    """Delete a waiting job as if it had never been, or a finished one from history.

    Its workflow step counts as cancelled; jobs behind a key that it held go on.

    Returns:
        The state it was in.

    Raises:
        NotFound: there is no such job.
        Conflict: it runs.
    """
    async with conn.transaction():
        state = await history.lock_open(conn, job_id)
        if state is None:
            state = await _state(conn, job_id)
            gone = await history.delete_finished(conn, [job_id])
        else:
            gone = await history.delete_waiting(conn, [job_id], f"deleted by {actor.name}")
        if not gone:
            raise Conflict(f"job {job_id} is {state}: cancel it first", current_state=state)
        await record_audit(conn, actor, "delete", "job", job_id, {"was": state})
    return state


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of a bulk.

    Args:
        jobs: how many matched.
        counts: `changed`, `skipped`, `asked`; None: a job is on its way.
        job_id: of that job.
    """

    jobs: int
    counts: Mapping[str, int] | None
    job_id: int | None = None


async def start_bulk(conn: asyncpg.Connection, actor: Actor, bulk: Bulk, expected: int | None = None) -> Asked:
    """Do one thing to every job that matches: at once where they are few, else by a job that survives a crash.

    Args:
        expected: how many were shown to whoever asks; None: none were.

    Raises:
        Conflict: far more match by now.
        InvalidInput: a changed value makes no sense.
    """
    bulk = replace(bulk, by=actor.name, via=_word(actor), correlation_id=actor.correlation_id)
    async with conn.transaction():
        if bulk.changes:
            await _check_changes(conn, bulk.changes, bulk.which.kind)
        until = await bulk_store.bound(conn)
        jobs = sum(row["n"] for row in await bulk_store.count(conn, bulk.which))
        if expected is not None and jobs > expected + max(DRIFT, expected // 10):
            raise Conflict(f"{jobs} jobs match by now, {expected} did when you looked: look again", current_state=str(jobs))
        detail: dict[str, Any] = {"filter": bulk.which.as_json(), "matched": jobs} | _how(bulk)
        if jobs <= AT_ONCE:
            mark = Mark()
            while mark.arm is not None:
                mark = await advance(conn, bulk, until, mark)
            await record_audit(conn, actor, bulk.action, "bulk", "at once", detail | mark.counts())
            return Asked(jobs, mark.counts())
        job = NewJob(KIND, bulk.as_args(until, jobs), queue="maintenance", max_attempts=ATTEMPTS, priority=PRIORITY, tags=(bulk.action,),
                     correlation_id=actor.correlation_id, triggered_by=_word(actor))  # fmt: skip
        (job_id,) = await enqueue(conn, [job])
        await record_audit(conn, actor, bulk.action, "bulk", job_id, detail)
    return Asked(jobs, None, job_id)


def _how(bulk: Bulk) -> dict[str, Any]:
    given = {"run_at": bulk.run_at, "changes": dict(bulk.changes), "force": bulk.force}
    return {name: value for name, value in given.items() if value}


async def _check_changes(conn: asyncpg.Connection, changes: Mapping[str, Any], kind: str | None) -> None:
    check_changes(changes)
    if "args" in changes and kind is not None and await queues.kind_known(conn, kind):
        (await require_kind(conn, kind)).check([changes["args"]])
    queue = changes.get("queue")
    if queue is not None and not await queues.queue_exists(conn, queue):
        known = [row["name"] for row in await queues.queues(conn)]
        raise InvalidInput(f'there is no queue "{queue}"{did_you_mean(queue, known)}', pointer="/queue")


async def _state(conn: asyncpg.Connection, job_id: int) -> str:
    # A job on its way from one table to the other stands in neither for the blink of a look: then it stands still by the next.
    for _ in range(LOOKS):
        state = await history.find_state(conn, job_id)
        if state is not None:
            return state
    raise NotFound(f"there is no job {job_id}")


def _word(actor: Actor) -> str:
    """How an entrance is called where jobs say what triggered them."""
    return actor.via if actor.via != "system" else "api"


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
