"""Moves a workflow run on: carries out what its course says, with the run held, so that two promoters never decide at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from ingestd.errors import InvalidInput
from ingestd.jobs.course import Course, StepState, compensation_of, decide
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import PARKED_DEPENDENCY, NewJob, State
from ingestd.jobs.references import references, resolve
from ingestd.jobs.store import history, steps
from ingestd.jobs.store.steps import NewStep


async def advance(conn: asyncpg.Connection, run_id: int) -> set[int]:
    """Decide about a run again and again until nothing is left to decide; within the caller's transaction.

    The run is locked in its own statement: what is read after it holds everything that acks have committed until then, so
    that of two promoters that come for two parents, the later one sees both.

    Returns:
        The queues that got work.
    """
    run = await steps.lock_run(conn, run_id)
    if run is None:
        return set()
    state = run["state"]
    if state == "waiting":
        if await steps.next_waiting(conn, run["workflow"]) != run_id:
            return set()
        state = "running"
        await steps.set_state(conn, run_id, state)
    woken: set[int] = set()
    while state in ("running", "compensating"):
        rows = await steps.steps_of(conn, run_id)
        course = decide(state, [_step(row) for row in rows])
        if course.state != state:
            await steps.set_state(conn, run_id, course.state)
        changed = await _carry_out(conn, run, course, {row["step"]: row for row in rows}, woken)
        if not changed and course.state == state:
            break
        state = course.state
    return woken


def _step(row: asyncpg.Record) -> StepState:
    return StepState(
        row["step"],
        row["state"],
        tuple(row["after"]),
        row["on_failure"],
        row["require"],
        row["partial"],
        row["compensates"],
        row["undo"] is not None,
        row["withdrawable"],
    )


async def _carry_out(
    conn: asyncpg.Connection, run: asyncpg.Record, course: Course, rows: Mapping[str, asyncpg.Record], woken: set[int]
) -> bool:
    """Returns whether anything has changed."""
    changed = False
    for reason, names in _by_reason(course.skip).items():
        await _end(conn, run["id"], [rows[name] for name in names], State.SKIPPED, reason)
        changed = True
    if course.withdraw:
        jobs = [rows[name]["job_id"] for name in course.withdraw]
        changed |= bool(await history.end_all(conn, jobs, State.SKIPPED, "skipped: the run is being taken back"))
    if course.release:
        woken |= await _release(conn, run["id"], [rows[name] for name in course.release])
        changed = True
    if course.compensate:
        await _add_compensations(conn, run, course.compensate, rows)
        changed = True
    return changed


def _by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        found.setdefault(reason, []).append(name)
    return found


async def _end(conn: asyncpg.Connection, run: int, rows: Sequence[asyncpg.Record], state: State, reason: str) -> None:
    await history.end_all(conn, [row["job_id"] for row in rows if row["job_id"] is not None], state, reason)
    # Those whose job was gone have to be told themselves.
    await steps.close_steps(conn, run, [row["step"] for row in rows], str(state), reason)


async def _release(conn: asyncpg.Connection, run: int, rows: Sequence[asyncpg.Record]) -> set[int]:
    """Let these steps run; one whose arguments refer to what is not there fails."""
    args: dict[str, dict[str, Any] | None] = {}
    wanted = {reference.step for row in rows if row["args"] for reference in references(row["args"])}
    results = await steps.results(conn, run, sorted(wanted)) if wanted else {}
    for row in rows:
        try:
            args[row["step"]] = resolve(row["args"], results) if row["args"] else None
        except InvalidInput as error:
            await _end(conn, run, [row], State.FAILED, error.message)
    released = await steps.release(conn, run, args) if args else []
    lost = [row["step"] for row in released if row["queue_id"] is None]
    if lost:
        await steps.close_steps(conn, run, lost, "failed", "its job is gone")
    return {row["queue_id"] for row in released if row["queue_id"] is not None}


async def _add_compensations(
    conn: asyncpg.Connection, run: asyncpg.Record, wanted: Mapping[str, Sequence[str]], rows: Mapping[str, asyncpg.Record]
) -> None:
    """Make the compensations steps of the run, blocked until those they wait for have succeeded."""
    jobs = await _compensating_jobs(conn, run, [rows[name] for name in wanted])
    ids, reason = await _try_to_enqueue(conn, list(jobs.values()))
    made = dict(zip(jobs, ids, strict=True))
    first = max(row["position"] for row in rows.values()) + 1
    added = [
        NewStep(
            compensation_of(name),
            first + number,
            [compensation_of(other) for other in wanted[name]],
            "skip",
            "any",
            made.get(name),
            "blocked" if made.get(name) is not None else "failed",
            compensates=name,
            args=jobs[name].args if name in jobs and references(jobs[name].args) else None,
            reason=reason if name in jobs else f"the arguments of {name}, which it needs, are not kept any more",
        )
        for number, name in enumerate(wanted)
    ]
    await steps.new_steps(conn, run["id"], added)


async def _compensating_jobs(conn: asyncpg.Connection, run: asyncpg.Record, rows: Sequence[asyncpg.Record]) -> dict[str, NewJob]:
    """The jobs that take these steps back, by step and in their order; one without arguments of its own is given those of its step.

    Where somebody has deleted the job that knew them there is none: with no arguments it might take back something else.
    """
    own = [row["job_id"] for row in rows if row["undo"]["args"] is None]
    done_with = await steps.arguments(conn, own) if own else {}
    slot = await steps.slot(conn, run["job_id"])
    return {
        row["step"]: NewJob(
            undo["kind"],
            undo["args"] if undo["args"] is not None else done_with[row["job_id"]],
            queue=undo["queue"],
            priority=undo["priority"],
            parked=PARKED_DEPENDENCY,
            workflow_run=run["id"],
            step=compensation_of(row["step"]),
            triggered_by="workflow",
            parent_id=run["job_id"],
            metadata=None if slot is None else slot.written(),
            correlation_id=run["correlation_id"] or f"workflow-{run['id']}",
        )
        for row in rows
        for undo in [row["undo"]]
        if undo["args"] is not None or row["job_id"] in done_with
    }


async def _try_to_enqueue(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> tuple[Sequence[int | None], str | None]:
    """Their ids; or none, and why: with a queue that is gone the promoter would try for ever otherwise, and nobody would know."""
    try:
        async with conn.transaction():
            return await enqueue(conn, jobs), None
    except InvalidInput as error:
        return [None] * len(jobs), f"it could not be enqueued: {error.message}"
