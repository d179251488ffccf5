"""A workflow is a DAG of jobs, declared once and started as one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

import asyncpg

from ingestd.errors import ConfigurationError
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import PARKED_DEPENDENCY, NewJob
from ingestd.jobs.store import steps as store
from ingestd.settings import did_you_mean

OnFailure = Literal["skip", "run"]


@dataclass(frozen=True, slots=True)
class Step:
    """One job of a workflow.

    Args:
        name: unique in the workflow.
        job: what to enqueue.
        after: names of the steps that must be final before.
        on_failure: what becomes of this step when one of those did not succeed.
        require: `complete` counts a partial success of a parent as a failure.
    """

    name: str
    job: NewJob
    after: tuple[str, ...] = ()
    on_failure: OnFailure = "skip"
    require: Literal["any", "complete"] = "any"


@dataclass(frozen=True, slots=True)
class Workflow:
    """A checked DAG of steps, in an order in which parents come first."""

    name: str
    steps: tuple[Step, ...]
    definition: Mapping[str, Any] = field(default_factory=dict)


def order_steps(workflow: str, steps: Sequence[Step]) -> tuple[Step, ...]:
    """Sort steps so that parents come first.

    Raises:
        ConfigurationError: a step waits for one that is not there, or steps wait for each other.
    """
    by_name = {step.name: step for step in steps}
    unknown = [
        f'"after" in [workflows.{workflow}.steps.{step.name}]: there is no step "{name}"{did_you_mean(name, by_name)}'
        for step in steps
        for name in step.after
        if name not in by_name
    ]
    if unknown:
        raise ConfigurationError(unknown)
    try:
        order = list(TopologicalSorter({step.name: step.after for step in steps}).static_order())
    except CycleError as error:
        circle = " → ".join(error.args[1])
        raise ConfigurationError([f"[workflows.{workflow}.steps]: steps wait for each other: {circle}"]) from None
    return tuple(by_name[name] for name in order)


async def start(
    conn: asyncpg.Connection,
    workflow: Workflow,
    *,
    triggered_by: str,
    correlation_id: str | None = None,
    job_id: int | None = None,
) -> int:
    """Insert a run with all its steps and jobs in one transaction; the first steps can run at once.

    Args:
        job_id: the job that waits for the run, as the parent of its steps' jobs.

    Returns:
        The run's id.
    """
    async with conn.transaction():
        run = await store.new_run(conn, workflow.name, workflow.definition, triggered_by, correlation_id, job_id)
        jobs = [
            replace(
                step.job,
                parked=PARKED_DEPENDENCY if step.after else 0,
                workflow_run=run,
                step=step.name,
                triggered_by="workflow",
                parent_id=job_id,
                correlation_id=correlation_id or f"workflow-{run}",
            )
            for step in workflow.steps
        ]
        ids = await enqueue(conn, jobs)
        for position, (step, step_job) in enumerate(zip(workflow.steps, ids, strict=True)):
            await store.new_step(conn, run, step.name, position, step.after, step.on_failure, step.require, step_job)
    return run
