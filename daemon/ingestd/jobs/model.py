"""What a job is, the states it can be in, and the values it can end in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from ingestd.settings import parse_duration

UniqueMode = Literal["skip", "replace", "reschedule"]
UniqueUntil = Literal["start", "finish"]

PARKED_DEPENDENCY = 1
PARKED_KEY = 2
PARKED_CHILDREN = 4


class State(StrEnum):
    """States of a job; the first five are open, the others final."""

    SCHEDULED = "scheduled"
    BLOCKED = "blocked"
    AVAILABLE = "available"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def final(self) -> bool:
        """Whether nothing can happen to the job any more by itself."""
        return self in FINAL


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.SKIPPED})


@dataclass(frozen=True, slots=True)
class Slot:
    """The fire time of a schedule that a job was made for.

    Args:
        schedule: its name.
        due_at: its time.
        catch_up: it came due while nothing ran, and is run after all.
    """

    schedule: str
    due_at: datetime
    catch_up: bool = False

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Slot | None:
        """The slot that a job's metadata tells of; None if it tells of none."""
        try:
            return cls(str(metadata["schedule"]), datetime.fromisoformat(metadata["due_at"]), bool(metadata.get("catch_up")))
        except (KeyError, TypeError, ValueError):
            return None  # metadata is anybody's: a job that people put a word "schedule" on has no slot

    def written(self) -> dict[str, Any]:
        """What `read` finds in a job's metadata."""
        return {"schedule": self.schedule, "due_at": self.due_at.isoformat(), "catch_up": self.catch_up}


@dataclass(slots=True)
class Job:
    """A claimed job, as its runner and handler see it; not frozen only because it is made so often.

    Args:
        attempt: the number of this try, from 1.
        claim: this node's hold on it; every write about the job carries it.
        crashes: how often a process died while running it.
        checkpoint: what an earlier attempt stored with `ctx.step()`.
        slot: what a schedule made it for, if one has.
    """

    id: int
    kind: str
    queue: str
    args: Mapping[str, Any]
    attempt: int
    max_attempts: int
    crashes: int
    run_at: datetime
    due_at: datetime
    created_at: datetime
    claim: UUID
    priority: int = 0
    key: str | None = None
    checkpoint: Any = None
    timeout: timedelta | None = None
    hard_timeout: timedelta | None = None
    backoff: Mapping[str, Any] | None = None
    tags: Sequence[str] = ()
    correlation_id: str | None = None
    parent_id: int | None = None
    triggered_by: str = "api"
    workflow_run: int | None = None
    step: str | None = None
    slot: Slot | None = None


@dataclass(slots=True)
class NewJob:
    """A job to be enqueued; nobody changes it, and it is not frozen only because it is made so often.

    Args:
        kind: which handler runs it.
        args: JSON object handed to the handler as keyword arguments.
        queue: lane; None: the kind's.
        priority: -100..100, larger is sooner; None: the kind's.
        run_at: not before; None: now.
        delay: not before so much later than now by the database's clock; instead of `run_at`.
        key: jobs with the same key run one at a time, in the order they were enqueued.
        key_strict: a retrying or failed job blocks its key.
        unique_key: while a job with it is open, another enqueue returns that one.
        unique_mode: what another enqueue does to the open job: nothing, give it the new arguments, or move it to the new run_at.
        unique_until: the key is free again when the job starts, or when it is final.
        unique_for: the key is held at least this long from the enqueue on, whatever becomes of the job.
        timeout: an attempt that takes longer is cancelled; None: the kind's.
        hard_timeout: an attempt that takes longer is killed; None: the kind's.
        backoff: `{"base_s", "factor", "cap_s", "jitter"}`; None: the kind's.
        store: only the node that holds this store may run it.
        parked: `PARKED_…` bits; a key parks by itself.
    """

    kind: str
    args: Mapping[str, Any] = field(default_factory=dict)
    queue: str | None = None
    priority: int | None = None
    run_at: datetime | None = None
    delay: timedelta | None = None
    max_attempts: int | None = None
    key: str | None = None
    key_strict: bool = False
    unique_key: str | None = None
    unique_mode: UniqueMode = "skip"
    unique_until: UniqueUntil = "finish"
    unique_for: timedelta | None = None
    timeout: timedelta | None = None
    hard_timeout: timedelta | None = None
    backoff: Mapping[str, Any] | None = None
    store: UUID | None = None
    parked: int = 0
    tags: tuple[str, ...] = ()
    notes: str | None = None
    metadata: Mapping[str, Any] | None = None
    correlation_id: str | None = None
    parent_id: int | None = None
    triggered_by: str = "api"
    workflow_run: int | None = None
    step: str | None = None


class Outcome:
    """Base of the values a handler may return; returning None is `Done()`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Done(Outcome):
    """The job succeeded.

    Args:
        result: JSON value kept in history; None: `ctx.result`.
    """

    result: Any = None


@dataclass(frozen=True, slots=True)
class Retry(Outcome):
    """Try again later; spends an attempt.

    Args:
        after: a duration such as "2s"; None: the kind's backoff.
        reason: kept with the attempt.
    """

    after: timedelta | str | None = None
    reason: str = "the handler asked for a retry"

    @property
    def delay(self) -> timedelta | None:
        """`after` as a timedelta."""
        return None if self.after is None else parse_duration(self.after)


@dataclass(frozen=True, slots=True)
class Snooze(Outcome):
    """Run again later without spending an attempt.

    Args:
        until: a moment, or a duration from now.
    """

    until: datetime | timedelta | str


@dataclass(frozen=True, slots=True)
class Discard(Outcome):
    """The job can never succeed: fail it now, without retries.

    Args:
        reason: kept in history.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class AwaitChildren(Outcome):
    """Run again, without spending an attempt, once every job with this one as its parent is final.

    Args:
        checkpoint: what the next run finds in `ctx.job.checkpoint`.
    """

    checkpoint: Any
