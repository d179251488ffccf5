"""Which jobs a request means: the same words in a query, in a body and in the page's form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from ingestd.admin.shapes import read_moment
from ingestd.errors import InvalidInput, UsageError
from ingestd.jobs.filters import MOST_IDS, JobFilter, check_trigger, read_states

_TEXTS = ("kind", "queue", "tag", "triggered_by", "correlation_id", "workflow", "error_class", "error_group")
_MOMENTS = {"from": "since", "to": "until", "finished_from": "finished_since", "finished_to": "finished_until"}
WORDS = ("state", *_TEXTS, "run", "parent", *_MOMENTS, "id")
MAX_ID = 2**63 - 1


def read_filter(given: Mapping[str, str], prefix: str = "/") -> JobFilter:
    """The filter that these words give; others are left alone.

    Args:
        prefix: of the pointer in errors.

    Raises:
        InvalidInput: a value makes no sense.
    """
    values: dict[str, Any] = {"states": read_states(given.get("state"), f"{prefix}state")}
    values |= {name: given[name] for name in _TEXTS if given.get(name)}
    check_trigger(given.get("triggered_by"), f"{prefix}triggered_by")
    for name, field in _MOMENTS.items():
        try:
            values[field] = read_moment(given, name) if given.get(name) else None
        except UsageError as error:
            raise InvalidInput(error.message, pointer=prefix + name) from None
    for name, field in (("run", "workflow_run"), ("parent", "parent_id")):
        if given.get(name):
            values[field] = _number(given[name], prefix + name)
    if given.get("id"):
        words = [word for word in given["id"].replace(",", " ").split() if word]
        if len(words) > MOST_IDS:
            raise InvalidInput(f"at most {MOST_IDS:,} ids at once", pointer=f"{prefix}id")
        values["ids"] = tuple(_number(word, f"{prefix}id") for word in words)
    return JobFilter(**values)


def read_query(query: Mapping[str, str]) -> JobFilter:
    """The filter of a query.

    Raises:
        UsageError: a value makes no sense.
    """
    try:
        return read_filter(query)
    except InvalidInput as error:
        raise UsageError(error.message) from None


def words_of(given: Mapping[str, str]) -> dict[str, str]:
    """Of what was given, the words of a filter that say something."""
    return {name: given[name] for name in WORDS if given.get(name)}


def query_of(given: Mapping[str, str], **more: str) -> str:
    """The words as a query string with its question mark; empty for none."""
    words = {name: value for name, value in (words_of(given) | more).items() if value}
    return f"?{urlencode(words)}" if words else ""


def read_when(run_at: datetime | None, wait: timedelta | None, now: datetime | None = None) -> datetime | None:
    """A moment given as such or as a wait from now; None: neither was.

    Raises:
        InvalidInput: both were given, or it is out of reach.
    """
    if run_at is not None and wait is not None:
        raise InvalidInput('give either "run_at" or "in", not both', pointer="/in")
    if wait is not None:
        try:
            return (now or datetime.now(UTC)) + wait
        except OverflowError:
            raise InvalidInput('"in" is too long', pointer="/in") from None
    if run_at is not None and run_at.tzinfo is None:
        raise InvalidInput("run_at has no time zone: nobody can tell which moment it is", pointer="/run_at")
    return run_at


def _number(text: str, pointer: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) > MAX_ID:
        raise InvalidInput(f'"{text[:100]}" is not an id', pointer=pointer)
    return int(text)
