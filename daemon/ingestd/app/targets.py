"""What a schedule or a workflow step may start, as the job that starts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingestd.errors import InvalidInput
from ingestd.jobs.model import NewJob
from ingestd.rollups.actions import refresh_job

COMMANDS = ("cleanup", "health")


def target_job(kind: str, name: str, args: Mapping[str, Any] | None = None) -> NewJob:
    """Turn a target into the job that carries it out.

    Args:
        kind: job, import, rollup, workflow or command.
        name: of the kind of job, the import, the rollup, the workflow, or the command.
        args: of a job.

    Raises:
        InvalidInput: there is no such kind of target.
    """
    match kind:
        case "job":
            return NewJob(name, dict(args or {}))
        case "import":
            return NewJob("import", {"import": name}, queue="imports")
        case "rollup":
            return refresh_job(name, triggered_by="schedule")
        case "workflow":
            return NewJob("workflow", {"workflow": name}, queue="maintenance")
        case "command":
            return NewJob(name, {}, queue="maintenance")
    raise InvalidInput(f'"{kind}" is not something a schedule or step can start')
