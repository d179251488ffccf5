"""What a schedule or a workflow step may start, as the job that starts it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ingestd.errors import InvalidInput
from ingestd.jobs.model import NewJob
from ingestd.rollups.actions import refresh_job
from ingestd.schedule.settings import ScheduleSettings
from ingestd.settings import did_you_mean


def target_job(kind: str, name: str, args: Mapping[str, Any] | None = None) -> NewJob:
    """Turn a target into the job that carries it out.

    Args:
        kind: job, import, rollup, workflow or command.
        name: of the kind of job, the import, the rollup, the workflow, or the command.
        args: of a job or command.

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
            return NewJob(name, dict(args or {}), queue="maintenance")
    raise InvalidInput(f'"{kind}" is not something a schedule or step can start')


def unknown_names(name: str, schedule: ScheduleSettings, known: Mapping[str, Collection[str]]) -> Iterator[tuple[str, str]]:
    """What a schedule starts or waits for that is not there: the key, and a line about it.

    Args:
        name: the schedule's.
        known: names there are, by kind of thing; kinds of jobs are not looked at.
    """
    named: list[tuple[str, str, str]] = [(schedule.target.type, schedule.target.type, schedule.target.name)]
    named += [("after", *dependency.thing) for dependency in schedule.after]
    for key, kind, wanted in named:
        if kind in known and wanted not in known[kind]:
            yield key, no_such(kind, key, f"schedules.{name}", wanted, known[kind])


def no_such(kind: str, key: str, section: str, name: str, known: Collection[str]) -> str:
    """Say that something is named which nobody declares."""
    return f'"{key}" in [{section}]: there is no {kind} "{name}"{did_you_mean(name, known)}'
