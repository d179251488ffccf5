"""Whether the job of a slot keeps to its schedule's times, and when to look at it next: pure, by the clock it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from ingestd.settings import format_duration

# A tenth of the slot's age: how a job ended is known a tenth of its time later.
LOOK_FIRST = timedelta(seconds=1)
LOOK_LAST = timedelta(seconds=60)
GONE = "its job was deleted before its end was seen"

Deadline = Literal["start", "finish"]
End = Literal["succeeded", "partial", "failed", "cancelled", "skipped"]


@dataclass(frozen=True, slots=True)
class WatchedSlot:
    """A slot with a job, as it is recorded.

    Args:
        state: `fired` or `late`.
        retried_at: when its job was brought back after its end; None: never.
        start_by: until when the job should start; None: no limit.
        finish_by: until when it should end; None: no limit.
        target_runtime: longer than that is slow; None: no limit.
        started_at: when the job began, as seen earlier.
        overdue: the deadline it is known to have broken, the later one of two.
        slow_at: when it was found slow.
    """

    schedule: str
    due_at: datetime
    state: str
    reason: str | None
    job_id: int
    fired_at: datetime
    retried_at: datetime | None = None
    start_by: datetime | None = None
    finish_by: datetime | None = None
    target_runtime: timedelta | None = None
    started_at: datetime | None = None
    overdue: Deadline | None = None
    slow_at: datetime | None = None

    @property
    def start_deadline(self) -> datetime | None:
        """`start_by`, unless the job should have ended by then anyway."""
        return None if self.start_by is None or (self.finish_by is not None and self.finish_by <= self.start_by) else self.start_by

    @property
    def began_at(self) -> datetime:
        """When its job, or the retry of it, was enqueued."""
        return max(self.fired_at, self.retried_at) if self.retried_at is not None else self.fired_at


@dataclass(frozen=True, slots=True)
class JobNow:
    """What is known about a slot's job at this moment.

    Args:
        starts: moments at which it is known to have begun, in any order, of whatever attempt and by whatever clock.
        is_run: it is a workflow's run, which begins when it is enqueued.
        ended: how; None: it is open.
        ended_at: when; None: it is open, or gone.
    """

    starts: Sequence[datetime] = ()
    ended: End | None = None
    ended_at: datetime | None = None
    is_run: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at a slot has found, to be written to its row.

    Args:
        check_at: when to look again; None: there is nothing left to see.
        duration_ms: from its first start to its end, waits between attempts included.
        broke: deadlines found broken by this look, each with its words.
        turned_slow: this look found it slow.
    """

    slot: WatchedSlot
    state: str
    reason: str | None
    check_at: datetime | None
    ended: End | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_ms: int | None = None
    overdue: Deadline | None = None
    slow_at: datetime | None = None
    broke: tuple[tuple[Deadline, str], ...] = ()
    turned_slow: bool = False


def judge(slot: WatchedSlot, job: JobNow | None, now: datetime) -> Finding:
    """Decide about one slot.

    Args:
        job: its job; None: there is none any more.
        now: the database's clock.
    """
    gone = GONE if job is None else None
    job = job or JobNow(ended="cancelled", ended_at=now)
    ended_at = None if job.ended is None else min(job.ended_at or now, now)
    started_at = slot.started_at or _first_start(slot, job, ended_at or now)
    broke = tuple(_broken(slot, started_at, ended_at, now))
    slow = slot.slow_at is None and _is_slow(slot, started_at, ended_at or now)
    overdue: Deadline | None = broke[-1][0] if broke else slot.overdue
    slow_at = now if slow else slot.slow_at
    reasons = [word for word in (slot.reason, gone, *(words for _, words in broke)) if word]
    return Finding(
        slot,
        "late" if broke else slot.state,
        "; ".join(reasons) or None,
        None if job.ended is not None else _next_look(slot, _deadlines_ahead(slot, started_at, overdue, slow_at is not None), now),
        job.ended,
        started_at,
        ended_at,
        None if started_at is None or ended_at is None else max(0, round((ended_at - started_at) / timedelta(milliseconds=1))),
        overdue,
        slow_at,
        broke,
        slow,
    )


def _first_start(slot: WatchedSlot, job: JobNow, latest: datetime) -> datetime | None:
    """The earliest moment that belongs to this run of the job; where only a wrong clock told one, the nearest that can be."""
    own = [start for start in job.starts if start >= slot.began_at]
    if own:
        return min(*own, latest)
    if job.is_run or (job.starts and slot.retried_at is None):
        return min(slot.began_at, latest)
    return None


def _broken(slot: WatchedSlot, started_at: datetime | None, ended_at: datetime | None, now: datetime) -> list[tuple[Deadline, str]]:
    found: list[tuple[Deadline, str]] = []
    start_by = slot.start_deadline
    if start_by is not None and slot.overdue is None and (started_at or ended_at or now) > start_by:
        found.append(("start", f"not started within {_span(slot, start_by)}"))
    if slot.finish_by is not None and slot.overdue != "finish" and (ended_at or now) > slot.finish_by:
        found.append(("finish", f"not finished within {_span(slot, slot.finish_by)}"))
    return found


def _span(slot: WatchedSlot, until: datetime) -> str:
    return format_duration(until - slot.due_at)


def _is_slow(slot: WatchedSlot, started_at: datetime | None, until: datetime) -> bool:
    return slot.target_runtime is not None and started_at is not None and until - started_at > slot.target_runtime


def _deadlines_ahead(slot: WatchedSlot, started_at: datetime | None, overdue: Deadline | None, slow: bool) -> Iterator[datetime]:
    if slot.start_deadline is not None and started_at is None and overdue is None:
        yield slot.start_deadline
    if slot.finish_by is not None and overdue != "finish":
        yield slot.finish_by
    if slot.target_runtime is not None and started_at is not None and not slow:
        yield started_at + slot.target_runtime


def _next_look(slot: WatchedSlot, deadlines: Iterable[datetime], now: datetime) -> datetime:
    """Soon for a young slot, seldom for an old one, and just after each deadline: what lies on it is still in time."""
    rest = min(max((now - slot.began_at) / 10, LOOK_FIRST), LOOK_LAST)
    return max(min((now + rest, *deadlines)), now) + timedelta(microseconds=1)
