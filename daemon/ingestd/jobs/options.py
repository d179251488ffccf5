"""What may be said about a job besides its kind and arguments: the same words from Python, the command line and HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypedDict, get_args

from ingestd.cause import correlation
from ingestd.errors import InvalidInput
from ingestd.jobs.backoff import Backoff, read_backoff
from ingestd.jobs.checks import BIGGEST_ID
from ingestd.jobs.model import NewJob, UniqueMode, UniqueUntil
from ingestd.settings import did_you_mean, parse_duration, parse_priority

Length = timedelta | str
# Kinds that act in ingestd's own name: whoever may enqueue could change or delete any job by them. Each with the way to it.
OURS = {
    "bulk": "give `jobs retry|cancel|delete|…` or POST /api/v1/bulk a filter",
    "load": "`ingestd import NAME FILE`, `ingestd loads retry ID`",
}


class Options(TypedDict, total=False):
    """Options of an enqueue; one that is None is one not given, and what is not given is the kind's.

    Args:
        queue: the lane.
        priority: low, normal, high, or -100..100; larger is sooner.
        run_at: not before; an aware datetime, or its ISO text.
        delay: not before so much later than now by the database's clock: a timedelta, or text such as "10m".
        unique_key: while a job with it is open, that one is answered and no other is made.
        unique_mode: what happens to the open job then: skip (nothing), replace (its arguments), reschedule (its run_at).
        unique_until: the key is free again when the job starts, or when it has finished.
        unique_for: the key is held at least so long from now on, whatever becomes of the job.
        max_attempts: a first try and its retries.
        timeout: an attempt that takes longer is cancelled.
        hard_timeout: an attempt that takes longer is killed where it can be.
        backoff: waits between attempts: a Backoff, or its fields.
        key: jobs with the same key run one at a time, in the order they were enqueued.
        key_strict: a job that retries or has failed holds up those behind it.
        tags: words to find it by.
        notes: text for people.
        metadata: JSON object for programs.
        correlation_id: ties together what belongs together.
        parent_id: the job that this one belongs to.
    """

    queue: str | None
    priority: int | str | None
    run_at: datetime | str | None
    delay: Length | None
    unique_key: str | None
    unique_mode: UniqueMode | None
    unique_until: UniqueUntil | None
    unique_for: Length | None
    max_attempts: int | None
    timeout: Length | None
    hard_timeout: Length | None
    backoff: Backoff | Mapping[str, Any] | None
    key: str | None
    key_strict: bool | None
    tags: Sequence[str] | None
    notes: str | None
    metadata: Mapping[str, Any] | None
    correlation_id: str | None
    parent_id: int | str | None


def new_job(kind: str, args: Mapping[str, Any] | None, options: Mapping[str, Any], triggered_by: str = "api") -> NewJob:
    """A job with these options, not yet checked against the database.

    Raises:
        InvalidInput: an option is unknown or makes no sense; says which, with a JSON pointer.
    """
    if not isinstance(kind, str):
        raise InvalidInput(f"kind must be a string, not {type(kind).__name__}", pointer="/kind")
    if kind in OURS:
        raise InvalidInput(f"jobs of the kind {kind} are made by ingestd alone: {OURS[kind]}", pointer="/kind")
    args = {} if args is None else args
    if not options:
        return NewJob(kind, args, triggered_by=triggered_by, correlation_id=correlation())
    read: dict[str, Any] = {}
    for name, value in options.items():
        if name not in _READERS:
            raise InvalidInput(f'unknown option "{name[:100]}"{did_you_mean(name, _READERS)}', pointer=f"/{name[:100]}")
        if value is not None:
            try:
                read[name] = _READERS[name](value)
            except (ValueError, TypeError, OverflowError) as error:
                raise InvalidInput(f"{name}: {error}", pointer=f"/{name}") from None
    if "unique_key" not in read and read.keys() & {"unique_mode", "unique_until", "unique_for"}:
        raise InvalidInput("unique_mode, unique_until and unique_for need a unique_key", pointer="/unique_key")
    if read.get("key_strict") and "key" not in read:
        raise InvalidInput("key_strict needs a key", pointer="/key_strict")
    # What a handler or a request enqueues, by whatever way, is joined to it.
    read.setdefault("correlation_id", correlation())
    return NewJob(kind, args, triggered_by=triggered_by, **read)


def _as_given(value: Any) -> Any:
    return value


def _moment(value: datetime | str) -> datetime:
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(value.strip())
    except (ValueError, AttributeError):
        raise ValueError(f'"{str(value)[:100]}" is not a moment such as 2027-01-31T08:00:00+01:00') from None


def _length(value: Length) -> timedelta:
    if not isinstance(value, timedelta | str):
        raise ValueError(f'"{value}" is not a duration: write a number and a unit, such as "90s" or "10m"')
    if isinstance(value, str) and value.strip().startswith("-"):
        raise ValueError(f'"{value}" is negative')
    return parse_duration(value)


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in words:
            raise ValueError(f'"{str(value)[:100]}" is none of {", ".join(words)}')
        return value

    return read


def _flag(value: bool) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _texts(value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError(f'a list of strings: ["{value[:100]}"]')
    return tuple(value)


def _backoff(value: Backoff | Mapping[str, Any]) -> dict[str, float]:
    return read_backoff(value).to_json()


def _id(value: int | str) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or len(text) > 19 or not 1 <= int(text) <= BIGGEST_ID:
        raise ValueError(f'"{text[:100]}" is not the id of a job')
    return int(text)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "queue": _as_given,
    "priority": parse_priority,
    "run_at": _moment,
    "delay": _length,
    "unique_key": _as_given,
    "unique_mode": _one_of(get_args(UniqueMode)),
    "unique_until": _one_of(get_args(UniqueUntil)),
    "unique_for": _length,
    "max_attempts": _as_given,
    "timeout": _length,
    "hard_timeout": _length,
    "backoff": _backoff,
    "key": _as_given,
    "key_strict": _flag,
    "tags": _texts,
    "notes": _as_given,
    "metadata": _as_given,
    "correlation_id": _as_given,
    "parent_id": _id,
}
