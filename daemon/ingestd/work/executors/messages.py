"""What the daemon and a job's process say to each other: jobs one way, outcomes the other, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from ingestd.jobs.model import AwaitChildren, Discard, Done, Job, Outcome, Retry, Slot, Snooze
from ingestd.jobs.store.ack import NO_JSON
from ingestd.postgres.codecs import dump_json
from ingestd.work.endings import Unkept

LONGEST = 64 << 20
_MOMENTS = ("run_at", "due_at", "created_at")
# What only the daemon acts on.
_KEPT_BACK = ("timeout", "hard_timeout", "backoff")


def job_to_json(job: Job) -> dict[str, Any]:
    """A claimed job as a message's part."""
    found = {field.name: getattr(job, field.name) for field in fields(job) if field.name not in _KEPT_BACK}
    # As text: numbers of any size and whatever else jsonb holds come through.
    slot = None if job.slot is None else asdict(job.slot)
    return {**found, "args": dump_json(job.args), "checkpoint": dump_json(job.checkpoint), "tags": list(job.tags), "slot": slot}


def job_from_json(found: Mapping[str, Any]) -> Job:
    """The reverse of `job_to_json`."""
    moments = {name: datetime.fromisoformat(found[name]) for name in _MOMENTS}
    values = {"args": orjson.loads(found["args"]), "checkpoint": orjson.loads(found["checkpoint"]), "claim": UUID(found["claim"])}
    slot = None if found["slot"] is None else Slot.read(found["slot"])
    return Job(**{**found, **moments, **values, "slot": slot})


def ending_to_json(value: Any, result: Any) -> dict[str, Any]:
    """What a handler returned, and what it set as its result, as a message's part.

    Raises:
        ValueError: it asks for something else than success, and says how in what is no JSON value.
        TypeError: neither.
        RecursionError: it contains itself.
    """
    given = value.result if isinstance(value, Done) else value
    try:
        # As in the daemon: what it returned wins.
        return {"value": value_to_json(value), "result": dump_json(result) if given is None else "null"}
    except NO_JSON as error:
        if isinstance(value, Outcome) and not isinstance(value, Done):
            raise
        return {"value": ["unkept", str(error)], "result": "null"}


def value_to_json(value: Any) -> list[Any]:
    """What a handler returned as a message's part.

    Raises:
        ValueError: it is no JSON value.
        TypeError: neither.
        RecursionError: it contains itself.
    """
    match value:
        case Done(result):
            return ["done", dump_json(result)]
        case Retry(reason=reason):
            return ["retry", None if value.delay is None else value.delay.total_seconds(), reason]
        case Snooze(until):
            if isinstance(until, datetime):
                return ["snooze at", (until if until.tzinfo else until.replace(tzinfo=UTC)).isoformat()]
            return ["snooze for", until.total_seconds() if isinstance(until, timedelta) else until]
        case Discard(reason):
            return ["discard", reason]
        case AwaitChildren(checkpoint):
            return ["children", dump_json(checkpoint)]
    return ["value", dump_json(value)]


def value_from_json(found: list[Any]) -> Outcome | Any:
    """The reverse of `value_to_json`."""
    match found:
        case ["done", text]:
            return Done(orjson.loads(text))
        case ["retry", seconds, reason]:
            return Retry(None if seconds is None else timedelta(seconds=seconds), reason)
        case ["snooze at", moment]:
            return Snooze(datetime.fromisoformat(moment))
        case ["snooze for", wait]:
            return Snooze(timedelta(seconds=wait) if isinstance(wait, int | float) else wait)
        case ["discard", reason]:
            return Discard(reason)
        case ["children", text]:
            return AwaitChildren(orjson.loads(text))
        case ["unkept", why]:
            return Unkept(why)
        case ["value", text]:
            return orjson.loads(text)
    raise AssertionError(f"unknown outcome {found!r}")
