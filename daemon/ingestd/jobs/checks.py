"""What can be a job: refused here, with the place, before anything is stored. `ingestd.check_jobs` says the same to SQL callers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from pathlib import PurePath
from typing import Any

import orjson

from ingestd.errors import InvalidInput
from ingestd.jobs.backoff import read_backoff
from ingestd.jobs.model import NewJob

MOST_ATTEMPTS = 32767
MOST_ARGS = 1 << 20  # bytes of JSON
MOST_METADATA = 64 << 10
MOST_TAGS = 50
LONGEST_TAG = 100
DEEPEST = 64
FARTHEST = timedelta(days=36525)
EARLIEST, LATEST = datetime(2, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
BIGGEST_ID = 2**63 - 1
BIGGEST_NUMBER = 10**308
_LONGEST = (("kind", 200), ("queue", 63), ("unique_key", 500), ("key", 500), ("notes", 10_000), ("correlation_id", 200))
_TEXTS = attrgetter(*(name for name, _ in _LONGEST))
_MAY_BE_EMPTY = ("notes",)
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_NAIVE_UTC

Fault = tuple[str, str]


def checked(job: NewJob) -> str:
    """Check a job; returns its arguments as they are stored.

    Raises:
        InvalidInput: it cannot be one; says what to change, with a JSON pointer.
    """
    for (name, longest), text in zip(_LONGEST, _TEXTS(job), strict=True):
        if text is not None:
            _check_text(text, f"/{name}", longest, name)
    if job.run_at is not None:
        if job.run_at.tzinfo is None:
            raise InvalidInput("run_at has no time zone: nobody can tell which moment it is", pointer="/run_at")
        if not EARLIEST <= job.run_at < LATEST:
            raise InvalidInput(f"run_at must be in the years {EARLIEST.year} to {LATEST.year - 1}", pointer="/run_at")
        if job.delay is not None:
            raise InvalidInput("give run_at or delay, not both", pointer="/delay")
    tries = job.max_attempts
    if tries is not None and (type(tries) is not int or not 1 <= tries <= MOST_ATTEMPTS):
        raise InvalidInput(f"max_attempts must be 1 to {MOST_ATTEMPTS}, a whole number, not {tries!r:.100}", pointer="/max_attempts")
    if job.priority is not None and not -100 <= job.priority <= 100:
        raise InvalidInput("priority must be low, normal, high, or -100 to 100", pointer="/priority")
    if job.tags:
        _check_tags(job.tags)
    if not is_plain(job):
        _check_extras(job)
    json_metadata(job)
    return json_args(job.args)


def json_args(args: Mapping[str, Any]) -> str:
    """The arguments of a job as they are stored.

    Raises:
        InvalidInput: they cannot be; says where.
    """
    return json_text(args, "args", MOST_ARGS)


def json_metadata(job: NewJob) -> str | None:
    """The metadata of a job as they are stored; None where there are none.

    Raises:
        InvalidInput: they cannot be; says where.
    """
    return None if job.metadata is None else json_text(job.metadata, "metadata", MOST_METADATA)


def json_list(args: Sequence[Mapping[str, Any]]) -> str:
    """The arguments of many jobs as one JSON array.

    Raises:
        InvalidInput: those of one of them cannot be stored; says where.
    """
    if all(type(one) is dict for one in args):
        try:
            raw = orjson.dumps(args if isinstance(args, list) else list(args), _plain_value, _OPTIONS)
        except (TypeError, RecursionError):
            raw = b""
        # Looked through as a whole: none can be at fault where all together could not be, as they are nearly always.
        nested = raw.count(b"[") + raw.count(b"{") - len(args)
        if 0 < len(raw) <= MOST_ARGS and nested <= DEEPEST and b"\\u0000" not in raw and b"null" not in raw:
            return raw.decode()
    return f"[{','.join(map(json_args, args))}]"


def is_plain(job: NewJob) -> bool:
    """Whether the job uses nothing that the fast statement leaves out."""
    return job.unique_key is None and job.delay is None and job.timeout is None and job.hard_timeout is None and job.backoff is None


def json_text(value: Any, name: str, most: int) -> str:
    """A JSON object as it is stored.

    Args:
        name: what it is called, and its JSON pointer.
        most: bytes it may take.

    Raises:
        InvalidInput: it is anything else, or holds what cannot be stored; says where.
    """
    if type(value) is not dict and not isinstance(value, Mapping):
        raise InvalidInput(f"{name} of a job must be a JSON object", pointer=f"/{name}")
    try:
        raw = orjson.dumps(value if type(value) is dict else dict(value), _plain_value, _OPTIONS)
    except (TypeError, RecursionError):
        _refuse_faults(value, name)
        raw = _with_large_numbers(value, name)
    if len(raw) > most:
        size = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most >> 10} KiB"
        raise InvalidInput(
            f"{name} of a job takes {len(raw) / 1024:.0f} KiB as JSON, more than {size}",
            pointer=f"/{name}",
            hint="keep large data in a table or a file and hand over where it is",
        )
    # Each costs a look through the bytes; only a value that could be at fault is walked.
    if b"\\u0000" in raw or b"null" in raw or raw.count(b"[") + raw.count(b"{") > DEEPEST:
        _refuse_faults(value, name)
    return raw.decode()


def _plain_value(value: Any) -> Any:
    if isinstance(value, Decimal | PurePath | timedelta):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def _with_large_numbers(value: Any, name: str) -> bytes:
    """As JSON, by the slower encoder: it alone knows integers beyond 64 bits."""
    try:
        return json.dumps(value, default=_any_value, ensure_ascii=False).encode()
    except TypeError as error:
        # such as a date as a name beside them
        raise InvalidInput(f"{name} of a job cannot be written as JSON: {error}", pointer=f"/{name}") from None


def _any_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        # Names that begin with an underscore are left out by the faster encoder too.
        return {field.name: getattr(value, field.name) for field in fields(value) if not field.name.startswith("_")}
    return orjson.loads(orjson.dumps(value, _plain_value, _OPTIONS))


def _refuse_faults(value: Any, name: str) -> None:
    for pointer, words in _faults(value, f"/{name}", 0):
        raise InvalidInput(f"{pointer[:200]} {words}", pointer=pointer[:200])


def _faults(value: Any, pointer: str, depth: int) -> Iterator[Fault]:
    if isinstance(value, str | float | int):
        wrong = unstorable(value) if isinstance(value, str) else _unreadable(value)
        if wrong:
            yield pointer, wrong
    elif isinstance(value, Mapping | list | tuple):
        if depth >= DEEPEST:
            yield pointer, f"is nested deeper than {DEEPEST} levels"
            return
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(key, str) and unstorable(key):
                yield pointer, f"has a name that {unstorable(key)}"
                return
            yield from _faults(item, f"{pointer}/{key}", depth + 1)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _faults({field.name: getattr(value, field.name) for field in fields(value)}, pointer, depth)
    else:
        try:
            orjson.dumps(value, _plain_value, _OPTIONS)
        except TypeError:
            yield pointer, f"is a {type(value).__name__}, which JSON cannot hold"


def unstorable(text: str) -> str:
    """Why Postgres cannot store a text; empty if it can."""
    if "\0" in text:
        return "holds a NUL character, which Postgres cannot store"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate), which cannot be stored"
    return ""


def _unreadable(number: float) -> str:
    if isinstance(number, int):
        return "" if -BIGGEST_NUMBER < number < BIGGEST_NUMBER else "is a number beyond 1e308, which no program could read"
    return "" if math.isfinite(number) else f"is {number}, which JSON cannot hold"


def _check_text(text: Any, pointer: str, longest: int, name: str) -> None:
    if not isinstance(text, str):
        raise InvalidInput(f"{name} must be a string, not {type(text).__name__}", pointer=pointer)
    if not text and name not in _MAY_BE_EMPTY:
        raise InvalidInput("a job needs a kind" if name == "kind" else f"{name} is empty", pointer=pointer)
    if len(text) > longest:
        raise InvalidInput(f"{name} is {len(text)} characters long; at most {longest} are kept", pointer=pointer)
    wrong = unstorable(text)
    if wrong:
        raise InvalidInput(f"{name} {wrong}", pointer=pointer)


def _check_tags(tags: tuple[str, ...]) -> None:
    if len(tags) > MOST_TAGS:
        raise InvalidInput(f"a job has at most {MOST_TAGS} tags, not {len(tags)}", pointer="/tags")
    for position, tag in enumerate(tags):
        _check_text(tag, f"/tags/{position}", LONGEST_TAG, "a tag")


def _check_extras(job: NewJob) -> None:
    for name in ("delay", "unique_for", "timeout", "hard_timeout"):
        length: timedelta | None = getattr(job, name)
        if length is None:
            continue
        if length < timedelta() or (not length and name != "delay"):
            raise InvalidInput(f"{name} is {'negative' if length else 'no time at all'}", pointer=f"/{name}")
        if length > FARTHEST:
            raise InvalidInput(f"{name} is longer than 100 years", pointer=f"/{name}")
    if job.backoff is not None:
        try:
            read_backoff(job.backoff)
        except ValueError as error:
            raise InvalidInput(f"backoff: {error}", pointer="/backoff") from None
