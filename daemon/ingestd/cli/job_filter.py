"""The options that say which jobs, the same for every command that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ingestd.cli.options import parse_moment
from ingestd.errors import InvalidInput
from ingestd.jobs.filters import GROUPS, STATES, TRIGGERS, JobFilter, check_trigger, read_states
from ingestd.settings import parse_duration

_AGO = "an ISO time, or a duration such as 2h for so long ago"
# option -> (field of the filter, what the help says)
_OPTIONS: dict[str, tuple[str, str, str]] = {
    "--state": ("states", "STATE", f"One or several with commas: {' '.join(STATES)}; or {', '.join(GROUPS)}."),
    "--kind": ("kind", "KIND", "Only of this kind."),
    "--queue": ("queue", "NAME", "Only of this queue."),
    "--tag": ("tag", "TAG", "Only with this tag."),
    "--workflow": ("workflow", "NAME", "Only steps of runs of this workflow."),
    "--run": ("workflow_run", "RUN", "Only steps of this run."),
    "--parent": ("parent_id", "JOB_ID", "Only children of this job."),
    "--error-class": ("error_class", "NAME", "Only where the last error was of this class."),
    "--error-group": ("error_group", "GROUP", "Only this group of `jobs dead`."),
    "--triggered-by": ("triggered_by", "WORD", f"Only what came this way: {' '.join(TRIGGERS)}."),
    "--correlation-id": ("correlation_id", "ID", "Only what one request caused."),
    "--from": ("since", "TIME", f"Created at or after: {_AGO}."),
    "--to": ("until", "TIME", f"Created before: {_AGO}."),
    "--finished-from": ("finished_since", "TIME", "Final at or after."),
    "--finished-to": ("finished_until", "TIME", "Final before."),
}
_FIELDS = {field: option for option, (field, _, _) in _OPTIONS.items()}
_NUMBERS = ("workflow_run", "parent_id")
_MOMENTS = ("since", "until", "finished_since", "finished_until")


def filtered(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a filter; it gets them as one argument, `which`."""
    own = [parameter for parameter in inspect.signature(command, eval_str=True).parameters.values() if parameter.name != "which"]
    options = [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if field in _NUMBERS else "",
            annotation=Annotated[int if field in _NUMBERS else str, typer.Option(option, metavar=metavar, help=words, min=_least(field))],
        )
        for option, (field, metavar, words) in _OPTIONS.items()
    ]

    def call(**given: Any) -> Any:
        which = _filter({field: given.pop(field) for field in _FIELDS})
        return command(**given, which=which)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + options
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # a function takes it, and typer reads it
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__name__, call.__doc__ = command.__name__, command.__doc__
    return call


def _least(field: str) -> int | None:
    return 1 if field in _NUMBERS else None


def _filter(given: dict[str, Any]) -> JobFilter:
    values = {field: value for field, value in given.items() if value}
    if "states" in values:
        values["states"] = read_states(values["states"], "--state")
    check_trigger(values.get("triggered_by"), "--triggered-by")
    for field in _MOMENTS:
        if field in values:
            values[field] = _moment_ago(_FIELDS[field], values[field])
    return JobFilter(**values)


def _moment_ago(name: str, text: str) -> datetime:
    try:
        return datetime.now(UTC) - parse_duration(text)
    except (ValueError, OverflowError):
        return parse_moment(name, text)


def when(at: str, wait: str) -> datetime | None:
    """The moment that `--at` or `--in` gives; None: neither was given.

    Raises:
        InvalidInput: both were, or one makes no sense.
    """
    if at and wait:
        raise InvalidInput("give either --at or --in, not both", pointer="--in")
    if wait:
        try:
            return datetime.now(UTC) + parse_duration(wait)
        except (ValueError, OverflowError) as error:
            raise InvalidInput(f"--in: {error}", pointer="--in") from None
    return parse_moment("--at", at) if at else None
