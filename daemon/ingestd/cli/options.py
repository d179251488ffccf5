"""Arguments and options that several commands have, and what is said about values that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer

from ingestd.errors import InvalidInput
from ingestd.settings import parse_duration

T = TypeVar("T")
_BIGGEST = 2**63 - 1
JobId = Annotated[int, typer.Argument(min=1, max=_BIGGEST, metavar="JOB_ID", help="A job's id.")]
LoadId = Annotated[int, typer.Argument(min=1, max=_BIGGEST, metavar="LOAD_ID", help="A load's id.")]
RunId = Annotated[int, typer.Argument(min=1, max=_BIGGEST, metavar="RUN", help="A run's id.")]
ImportName = Annotated[str, typer.Argument(metavar="NAME", help="A declared import.")]
RollupName = Annotated[str, typer.Argument(metavar="NAME", help="A rollup.")]
ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="A schedule.")]
WorkflowName = Annotated[str, typer.Argument(metavar="NAME", help="A declared workflow.")]


def parse_option(name: str, parse: Callable[[str], T], value: str) -> T:
    """Parse an option's value; what is wrong with it names the option.

    Raises:
        InvalidInput: `parse` refused it.
    """
    try:
        return parse(value)
    except ValueError as error:
        raise InvalidInput(f"{name}: {error}", pointer=name) from None


def parse_object(name: str, text: str, example: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        InvalidInput: it is anything else, or cannot be stored.
    """
    hint = f"write it like {name} '{example}'"
    try:
        value = json.loads(text, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{name} holds half a character (a lone surrogate), which cannot be stored", pointer=name) from None
    except RecursionError:
        raise InvalidInput(f"{name} is nested too deeply", pointer=name) from None
    except ValueError as error:
        raise InvalidInput(f"{name} is not JSON: {error}", pointer=name, hint=hint) from None
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{name} must be a JSON object", pointer=name, hint=hint)
    return dict(value)


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not a JSON value")


def parse_moment(name: str, text: str, now: datetime | None = None) -> datetime:
    """An ISO time, in local time unless it has an offset, or a duration from now.

    Raises:
        InvalidInput: it is neither.
    """
    try:
        return (now or datetime.now(UTC)) + parse_duration(text)
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        message = f'{name}: "{text}" is neither an ISO time such as 2027-01-31T08:00:00+01:00 nor a duration such as 10m'
        raise InvalidInput(message, pointer=name) from None
