"""What people do to workflow runs: each an effect and its audit row in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import asyncpg

from ingestd.access.roles import Actor
from ingestd.access.store import record_audit
from ingestd.errors import Conflict, NotFound
from ingestd.jobs.course import OPEN_RUN
from ingestd.jobs.model import State
from ingestd.jobs.store import history, steps
from ingestd.jobs.workflow import BUSY_HINT, Workflow, start
from ingestd.settings import did_you_mean

AGAIN = ("failed", "cancelled", "skipped")


@dataclass(frozen=True, slots=True)
class Reopened:
    """A run that goes on.

    Args:
        state: it is in now: running, waiting for its turn, or compensating.
        steps: that run again, in order.
    """

    run: int
    state: str
    steps: tuple[str, ...]


async def start_run(conn: asyncpg.Connection, actor: Actor, workflow: Workflow) -> int:
    """Start a run of a workflow.

    Returns:
        The run's id.

    Raises:
        Conflict: `overlap = "skip"`, and an earlier run is open; names it.
    """
    async with conn.transaction():
        run = await start(conn, workflow, triggered_by=actor.via, correlation_id=actor.correlation_id)
        await record_audit(conn, actor, "start", "workflow", workflow.name, {"run": run})
    return run


async def retry_run(conn: asyncpg.Connection, actor: Actor, run_id: int, step: str | None = None) -> Reopened:
    """Run again what did not succeed in a run that has ended; what succeeded is kept, but for what runs whatever happens behind it.

    A run that was taken back starts over. One that was taken back only in part is taken back to its end first.

    Args:
        step: only this step and what did not succeed behind it; None: everything that did not succeed.

    Raises:
        NotFound: there is no such run or step.
        Conflict: it is open, nothing of it failed, or its jobs are not kept any more.
    """
    async with conn.transaction():
        run = await _hold_by_name(conn, run_id)
        if run["state"] in OPEN_RUN:
            raise Conflict(f"run {run_id} is {run['state']}: only a run that has ended can be retried", current_state=run["state"])
        rows = await steps.steps_of(conn, run_id)
        again, state = _what_again(run, rows, step)
        anyway = _run_anyway(rows, {row["step"] for row in again}) if state == "running" else []
        if state == "running":
            state = await _state_besides_others(conn, run)
            await steps.forget_compensations(conn, run_id)
        back = await steps.reopen(conn, [row["job_id"] for row in (*again, *anyway) if row["job_id"] is not None])
        gone = [row["step"] for row in again if row["step"] not in back]
        if gone:
            raise Conflict(
                f"run {run_id} cannot be retried: the jobs of {', '.join(gone)} are not kept any more",
                current_state=run["state"],
                hint="start the workflow again; [retention] says how long jobs are kept",
            )
        await steps.set_state(conn, run_id, state)
        names = tuple(row["step"] for row in rows if row["step"] in back)
        await record_audit(conn, actor, "retry", "workflow_run", run_id, {"workflow": run["workflow"], "steps": list(names)})
    return Reopened(run_id, state, names)


async def cancel_run(conn: asyncpg.Connection, actor: Actor, run_id: int, *, undo: bool = False) -> str:
    """Cancel what has not ended of a run; what runs is asked to stop.

    Args:
        undo: also take back what has succeeded, once nothing runs any more.

    Returns:
        `cancelling`, or `compensating`.

    Raises:
        NotFound: there is no such run.
        Conflict: it is final.
    """
    async with conn.transaction():
        run = await _hold(conn, run_id)
        if run["state"] not in OPEN_RUN:
            raise Conflict(f"run {run_id} is {run['state']}: there is nothing to cancel", current_state=run["state"])
        # A waiting run has done nothing yet, and only one that runs comes to an end.
        state = "compensating" if undo or run["state"] == "compensating" else "running"
        await steps.set_state(conn, run_id, state)
        open_steps = [row for row in await steps.steps_of(conn, run_id) if row["state"] in ("blocked", "open")]
        ids = [row["job_id"] for row in open_steps if row["job_id"] is not None]
        ended = await history.end_all(conn, ids, State.CANCELLED, f"cancelled by {actor.name}")
        await history.ask_cancel(conn, sorted(set(ids) - set(ended)))
        await record_audit(conn, actor, "cancel", "workflow_run", run_id, {"workflow": run["workflow"], "undo": undo})
    return "compensating" if state == "compensating" else "cancelling"


async def _hold(conn: asyncpg.Connection, run_id: int) -> asyncpg.Record:
    run = await steps.lock_run(conn, run_id)
    if run is None:
        raise NotFound(f"there is no workflow run {run_id}")
    return run


async def _hold_by_name(conn: asyncpg.Connection, run_id: int) -> asyncpg.Record:
    """The workflow's name before the run, as whoever starts one takes them."""
    found = await steps.find_run(conn, run_id)
    if found is None:
        raise NotFound(f"there is no workflow run {run_id}")
    await steps.lock_workflow(conn, found["workflow"])
    return await _hold(conn, run_id)


async def _state_besides_others(conn: asyncpg.Connection, run: asyncpg.Record) -> str:
    if run["overlap"] == "allow":
        return "running"
    busy = await steps.open_run(conn, run["workflow"], run["id"])
    if busy is not None and run["overlap"] == "skip":
        raise Conflict(
            f'workflow "{run["workflow"]}" is busy with run {busy["id"]}: run {run["id"]} cannot go on beside it',
            current_state=busy["state"],
            hint=BUSY_HINT,
        )
    return "running" if busy is None else "waiting"


def _what_again(run: asyncpg.Record, rows: Sequence[asyncpg.Record], step: str | None) -> tuple[list[asyncpg.Record], str]:
    """The steps that run again, and the state in which the run goes on."""
    compensations = [row for row in rows if row["compensates"]]
    not_undone = [row for row in compensations if row["state"] != "succeeded"]
    if not_undone:
        if step is not None and step not in {row["step"] for row in not_undone}:
            missing = ", ".join(row["compensates"] for row in not_undone)
            raise Conflict(f"run {run['id']} was taken back only in part (not {missing}): retry it as a whole", current_state=run["state"])
        return not_undone, "compensating"
    if compensations:
        return _start_over(run, rows, step), "running"
    again = _not_good_enough(rows) if step is None else _from_step(run, rows, step)
    if not again:
        raise Conflict(f"run {run['id']} is {run['state']}: every step of it succeeded", current_state=run["state"])
    return again, "running"


def _not_good_enough(rows: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    """What did not succeed, and what succeeded only in part where a step was skipped that wanted all of it."""
    strict = {name for row in rows if row["require"] == "complete" and row["state"] == "skipped" for name in row["after"]}
    return [row for row in rows if row["state"] in AGAIN or (row["partial"] and row["step"] in strict)]


def _run_anyway(rows: Sequence[asyncpg.Record], again: AbstractSet[str]) -> list[asyncpg.Record]:
    """What succeeded because it runs whatever happens, behind a step that runs again: it reported or cleaned up what is no more."""
    behind = set(again)
    for row in rows:  # parents come first
        if row["on_failure"] == "run" and row["compensates"] is None and row["state"] == "succeeded" and behind & set(row["after"]):
            behind.add(row["step"])
    return [row for row in rows if row["step"] in behind - again]


def _start_over(run: asyncpg.Record, rows: Sequence[asyncpg.Record], step: str | None) -> list[asyncpg.Record]:
    if step is not None:
        raise Conflict(f"run {run['id']} was taken back: it can only start over as a whole", current_state=run["state"])
    undone = {row["compensates"] for row in rows if row["compensates"]}
    return [row for row in rows if row["compensates"] is None and (row["state"] in AGAIN or row["step"] in undone)]


def _from_step(run: asyncpg.Record, rows: Sequence[asyncpg.Record], step: str) -> list[asyncpg.Record]:
    by_name = {row["step"]: row for row in rows}
    first = by_name.get(step)
    if first is None:
        raise NotFound(f'run {run["id"]} has no step "{step}"{did_you_mean(step, by_name)}')
    if first["state"] not in AGAIN:
        raise Conflict(f'step "{step}" of run {run["id"]} {first["state"]}: it is kept', current_state=first["state"])
    bad = [name for name in first["after"] if by_name[name]["state"] in AGAIN]
    if bad and first["on_failure"] != "run":
        told = ", ".join(f"{name} {by_name[name]['state']}" for name in bad)
        raise Conflict(f'step "{step}" would be skipped again: {told}; retry from there', current_state=first["state"])
    chosen = {step}
    for row in rows:  # parents come first
        if row["state"] in AGAIN and chosen & set(row["after"]):
            chosen.add(row["step"])
    return [row for row in rows if row["step"] in chosen]
