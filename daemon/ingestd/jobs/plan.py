"""What a run of a workflow would do, told before it does it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingestd.jobs.model import NewJob
from ingestd.jobs.workflow import Step, Workflow

DEFAULT_QUEUE = "default"


def plan(workflow: Workflow, queues: Mapping[str, str], busy: int | None = None) -> dict[str, Any]:
    """The steps in layers, what each waits for, and what happens when it fails.

    Args:
        queues: kind -> the queue its jobs go to.
        busy: an open run of the workflow.
    """
    by_layer: dict[int, list[dict[str, Any]]] = {}
    depth: dict[str, int] = {}
    for step in workflow.steps:
        depth[step.name] = max((depth[parent] + 1 for parent in step.after), default=0)
        by_layer.setdefault(depth[step.name], []).append(_step(workflow, step, queues))
    return {
        "workflow": workflow.name,
        "overlap": workflow.overlap,
        "starts": _starts(workflow, busy),
        "busy_run": busy,
        "layers": [by_layer[number] for number in sorted(by_layer)],
    }


def _starts(workflow: Workflow, busy: int | None) -> str:
    if busy is None or workflow.overlap == "allow":
        return "now"
    return "refused" if workflow.overlap == "skip" else "waits"


def _step(workflow: Workflow, step: Step, queues: Mapping[str, str]) -> dict[str, Any]:
    return {
        "step": step.name,
        **_job(step.job, queues),
        "after": list(step.after),
        "on_failure": step.on_failure,
        "require": step.require,
        "undo": None if step.undo is None else _job(step.undo, queues),
        "if_it_fails": _if_it_fails(workflow, step),
    }


def _job(job: NewJob, queues: Mapping[str, str]) -> dict[str, Any]:
    return {"kind": job.kind, "args": dict(job.args), "queue": job.queue or queues.get(job.kind, DEFAULT_QUEUE)}


def _if_it_fails(workflow: Workflow, failed: Step) -> dict[str, list[str]]:
    """The steps that would be skipped, and those that would be taken back, the last first."""
    bad = {failed.name}
    for step in workflow.steps:
        if bad & set(step.after) and step.on_failure != "run":
            bad.add(step.name)
    skipped = [step.name for step in workflow.steps if step.name in bad and step is not failed]
    undone: list[str] = []
    if failed.on_failure == "compensate":
        undone = [step.name for step in reversed(workflow.steps) if step.undo and step.name not in bad]
    return {"skips": skipped, "undoes": undone}
