"""How values leave through the API and the page: ids as text, secrets masked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ingestd.admin.problems import InvalidBody
from ingestd.errors import InvalidInput, UsageError
from ingestd.redaction import CUT, MASK, MAX_DEPTH, masked
from ingestd.settings import did_you_mean

__all__ = ["CUT", "MASK", "masked"]

M = TypeVar("M", bound=BaseModel)
MOST_PROBLEMS = 20
LONGEST_NAME = 100
_SHOULD = re.compile(r"^\w+ should")


def check_storable(value: Any, pointer: str = "", depth: int = 0) -> None:
    """Refuse what Postgres or a reader could not take.

    Raises:
        InvalidInput: a string holds NUL, or the value is nested too deeply.
    """
    if isinstance(value, str) and "\0" in value:
        raise InvalidInput("a string holds a NUL character, which Postgres cannot store", pointer=pointer)
    if isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise InvalidInput(f"nested deeper than {MAX_DEPTH} levels", pointer=pointer[:200])
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            check_storable(key, pointer, depth)
            check_storable(item, f"{pointer}/{key}", depth + 1)


def with_text_ids(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The row with those numbers as strings: JavaScript cannot hold all of a 64-bit id."""
    shown = dict(row)
    for name in names:
        if shown.get(name) is not None:
            shown[name] = str(shown[name])
    return shown


def read_moment(query: Mapping[str, str], name: str) -> datetime | None:
    """A moment among the query parameters; without a zone it is UTC.

    Raises:
        UsageError: it is not one.
    """
    moment = read_local(query, name)
    try:
        return None if moment is None else (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise _no_moment(name) from None


def read_local(query: Mapping[str, str], name: str) -> datetime | None:
    """A moment among the query parameters as it was written; without a zone it has none.

    Raises:
        UsageError: it is not one.
    """
    text = query.get(name)
    if text is None:
        return None
    try:
        # a "+" of an offset that was not encoded arrives as a space
        return datetime.fromisoformat(text.strip().replace(" ", "+") if text.count(" ") == 1 and "T" in text else text)
    except ValueError:
        raise _no_moment(name) from None


def _no_moment(name: str) -> UsageError:
    return UsageError(f'"{name}" must be a moment such as 2026-01-31T06:00:00Z')


def read_word(query: Mapping[str, str], name: str, known: Sequence[str]) -> str | None:
    """One of the known words among the query parameters.

    Raises:
        UsageError: it is another.
    """
    text = query.get(name)
    if text is None or text in known:
        return text
    near = did_you_mean(text, known) or f"; one of: {', '.join(known)}"
    raise UsageError(f'"{name}" cannot be "{text[:100]}"{near}')


def parse(model: type[M], data: Mapping[str, Any]) -> M:
    """Read a request's body into `model`.

    Raises:
        InvalidBody: with the first problems and their JSON pointers.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # Somebody may send a hundred thousand members that nobody knows: to word them all would take a second.
        items = error.errors(include_url=False, include_input=False)[:MOST_PROBLEMS]
        raise InvalidBody([_body_problem(model, item) for item in items]) from None


def _body_problem(model: type[BaseModel], item: Any) -> tuple[str, str]:
    loc = [str(part)[:LONGEST_NAME] for part in item["loc"]]
    pointer = "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in loc)
    last = _name(item["loc"])
    if item["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in model.model_fields.items()]
        return pointer, f'unknown member "{last}"{did_you_mean(last, known)}'
    if item["type"] == "missing":
        return pointer, f'member "{last}" is missing'
    text = str(item["ctx"]["error"]) if item["type"] == "value_error" else _SHOULD.sub("must", item["msg"])
    return pointer, f"{last}: {text}" if last else text


def _name(loc: Sequence[str | int]) -> str:
    """What a reader calls the place: `tags[0]`, not `0`."""
    last = str(loc[-1])[:LONGEST_NAME] if loc else ""
    return f"{str(loc[-2])[:LONGEST_NAME]}[{last}]" if len(loc) > 1 and isinstance(loc[-1], int) else last
