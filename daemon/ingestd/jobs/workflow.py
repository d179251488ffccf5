"""A workflow is a DAG of jobs, declared once and started as one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

import asyncpg

from ingestd.errors import ConfigurationError, Conflict
from ingestd.jobs.course import OnFailure
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import PARKED_DEPENDENCY, NewJob, Slot
from ingestd.jobs.references import references
from ingestd.jobs.store import steps as store
from ingestd.jobs.store.steps import NewStep
from ingestd.settings import did_you_mean

Overlap = Literal["skip", "queue", "allow"]
BUSY_HINT = 'wait for it, cancel it, or set overlap = "queue" or "allow"'


@dataclass(frozen=True, slots=True)
class Step:
    """One job of a workflow.

    Args:
        name: unique in the workflow.
        job: what to enqueue; its arguments may refer to results of steps before.
        after: names of the steps that must be final before.
        on_failure: skip: it is skipped when one of those did not succeed; run: it runs all the same; compensate: as skip, and
            when it fails itself, the run is taken back.
        require: `complete` counts a partial success of a parent as a failure.
        undo: the job that takes it back.
        undo_takes_args: an undo without arguments of its own gets those of the step.
    """

    name: str
    job: NewJob
    after: tuple[str, ...] = ()
    on_failure: OnFailure = "skip"
    require: Literal["any", "complete"] = "any"
    undo: NewJob | None = None
    undo_takes_args: bool = True


@dataclass(frozen=True, slots=True)
class Workflow:
    """A checked DAG of steps, in an order in which parents come first.

    Args:
        overlap: what a start does while an earlier run is open: it is refused, it waits for its turn, or both go on.
        definition: as declared, kept with each run.
    """

    name: str
    steps: tuple[Step, ...]
    definition: Mapping[str, Any] = field(default_factory=dict)
    overlap: Overlap = "allow"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a step, or with all of them.

    Args:
        place: keys below the workflow's `steps` section, such as `load`, `after`.
    """

    place: tuple[str, ...]
    problem: str


def order_steps(workflow: str, steps: Sequence[Step]) -> tuple[Step, ...]:
    """Sort steps so that parents come first.

    Raises:
        ConfigurationError: with every fault there is.
    """
    found = faults(workflow, steps)
    if found:
        raise ConfigurationError([fault.problem for fault in found])
    by_name = {step.name: step for step in steps}
    return tuple(by_name[name] for name in TopologicalSorter({step.name: step.after for step in steps}).static_order())


def faults(workflow: str, steps: Sequence[Step]) -> list[Fault]:
    """Steps that wait for one that is not there, or for each other, and references that lead nowhere."""
    by_name = {step.name: step for step in steps}
    found = [
        Fault((step.name, "after"), f'"after" in {_section(workflow, step)}: there is no step "{name}"{did_you_mean(name, by_name)}')
        for step in steps
        for name in step.after
        if name not in by_name
    ]
    graph = {step.name: [name for name in step.after if name in by_name] for step in steps}
    for circle in _circles(graph):
        problem = f"[workflows.{workflow}.steps]: steps wait for each other: {' → '.join(circle)}"
        found.append(Fault((circle[0], "after"), problem))
    before = {name: _before(graph, name) for name in graph}
    for step in steps:
        found += _stray_references(workflow, step, by_name, before[step.name])
    return found


def _circles(graph: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Circles that have no step in common."""
    left = dict(graph)
    while True:
        try:
            TopologicalSorter({name: [parent for parent in after if parent in left] for name, after in left.items()}).prepare()
        except CycleError as error:
            yield error.args[1]
            left = {name: after for name, after in left.items() if name not in error.args[1]}
        else:
            return


def _before(graph: Mapping[str, Sequence[str]], name: str) -> set[str]:
    """All steps that are surely final when this one begins."""
    found: set[str] = set()
    ahead = list(graph[name])
    while ahead:
        parent = ahead.pop()
        if parent not in found:
            found.add(parent)
            ahead += graph[parent]
    return found


def _stray_references(workflow: str, step: Step, known: Mapping[str, Step], before: set[str]) -> Iterator[Fault]:
    jobs = [("args", step.job, before)]
    if step.undo is not None:
        jobs.append(("undo.args", step.undo, before | {step.name}))
    for key, job, readable in jobs:
        for reference in references(job.args):
            if reference.step in readable:
                continue
            if reference.step not in known:
                why = f'there is no step "{reference.step}"{did_you_mean(reference.step, known)}'
            elif reference.step == step.name:
                why = "a step cannot take its own result"
            else:
                why = f'step "{reference.step}" may not be final by then; add it to "after"'
            yield Fault((step.name, *key.split(".")), f'"{key}.{reference.at}" in {_section(workflow, step)}: {why}')


def _section(workflow: str, step: Step) -> str:
    return f"[workflows.{workflow}.steps.{step.name}]"


async def start(
    conn: asyncpg.Connection,
    workflow: Workflow,
    *,
    triggered_by: str,
    correlation_id: str | None = None,
    job_id: int | None = None,
    slot: Slot | None = None,
) -> int:
    """Insert a run with all its steps and jobs in one transaction; the first steps can run at once, or when it is its turn.

    Args:
        job_id: the job that waits for the run, as the parent of its steps' jobs.
        slot: the slot of a schedule that started it; its steps are told it as any job is.

    Returns:
        The run's id.

    Raises:
        Conflict: `overlap = "skip"`, and an earlier run is open; names it.
    """
    async with conn.transaction():
        waits = await _must_wait(conn, workflow)
        run = await store.new_run(
            conn,
            workflow.name,
            workflow.definition,
            workflow.overlap,
            "waiting" if waits else "running",
            triggered_by,
            correlation_id,
            job_id,
        )
        blocked = [bool(waits or step.after) for step in workflow.steps]
        jobs = [
            replace(
                step.job,
                # A key of its own job would let somebody else's stand in for it, and a step is told only of its own.
                unique_key=None,
                parked=PARKED_DEPENDENCY if parked else 0,
                workflow_run=run,
                step=step.name,
                triggered_by="workflow",
                parent_id=job_id,
                metadata=step.job.metadata if slot is None else {**(step.job.metadata or {}), **slot.written()},
                correlation_id=correlation_id or f"workflow-{run}",
            )
            for step, parked in zip(workflow.steps, blocked, strict=True)
        ]
        ids = await enqueue(conn, jobs)
        rows = [
            _row(position, step, step_job, parked)
            for position, (step, step_job, parked) in enumerate(zip(workflow.steps, ids, blocked, strict=True))
        ]
        await store.new_steps(conn, run, rows)
    return run


async def _must_wait(conn: asyncpg.Connection, workflow: Workflow) -> bool:
    if workflow.overlap == "allow":
        return False
    # In its own statement: the look after it sees what whoever held it has committed.
    await store.lock_workflow(conn, workflow.name)
    busy = await store.open_run(conn, workflow.name)
    if busy is not None and workflow.overlap == "skip":
        raise Conflict(f'workflow "{workflow.name}" is still busy with run {busy["id"]}', current_state=busy["state"], hint=BUSY_HINT)
    return busy is not None


def _row(position: int, step: Step, job_id: int, blocked: bool) -> NewStep:
    undo = step.undo
    return NewStep(
        step.name,
        position,
        step.after,
        step.on_failure,
        step.require,
        job_id,
        "blocked" if blocked else "open",
        undo=None
        if undo is None
        else {
            "kind": undo.kind,
            "args": undo.args if undo.args or not step.undo_takes_args else None,
            "queue": undo.queue,
            "priority": undo.priority,
        },
        args=step.job.args if references(step.job.args) else None,
    )
