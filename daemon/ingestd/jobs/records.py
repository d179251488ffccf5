"""What became of things that run again and again, in one shape for schedules, imports, workflows and kinds of job. Pure.

A run is whatever is listed: a slot of a schedule, a load of an import, a run of a workflow, a job of a kind. Runs have the order of
their list, newest first; "in a row" means in that order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

OPEN = ("running", "waiting")
GOOD = ("succeeded", "partial")
BAD = ("failed",)
# Neither good nor bad: passed over where failures in a row are counted, and left out of the success rate.
NEITHER = ("cancelled", "skipped", "missed")
STATES = (*GOOD, *BAD, *NEITHER, *OPEN)
DAYS = 30
MOST_DAYS = 366
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Args:
        id: of the slot (its due time), the load, the workflow's run or the job.
        position: where it stands in its list; larger is newer.
        due_at: when its time had come.
        subject: what it was about, such as a load's file.
        counts: what it did, in the words of its type.
    """

    id: str
    position: int
    state: str
    due_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration_ms: int | None = None
    triggered_by: str | None = None
    job_id: int | None = None
    subject: str | None = None
    reason: str | None = None
    error: Any = None
    counts: Mapping[str, Any] | None = None

    def shown(self) -> dict[str, Any]:
        """As API and command line show it."""
        shown = asdict(self)
        del shown["position"]
        shown["job_id"] = None if self.job_id is None else str(self.job_id)
        return shown

    def in_short(self) -> dict[str, Any]:
        """What fits beside other things."""
        whole = self.shown()
        return {name: whole[name] for name in ("id", "state", "due_at", "started_at", "finished_at", "duration_ms", "job_id", "reason")}


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs; what is not given means any.

    Args:
        states: words of `STATES`; empty: any.
        before: only positions below, for the next page.
    """

    states: tuple[str, ...] = ()
    triggered_by: str | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class Streak:
    """How it went lately, whatever the window of other numbers.

    Args:
        failures: runs in a row that failed, from the newest back to the last success.
        last_success_at: when the newest success ended.
        last_failure_at: when the newest failure ended.
    """

    failures: int = 0
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DayCount:
    """Runs of one state on one day.

    Args:
        day: number of the day in the window, from 0.
        ms: how long they took together.
    """

    day: int
    state: str
    runs: int
    ms: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """How long runs took that succeeded or failed, in milliseconds; None where there are none.

    Args:
        exact: False where only the power of two is known that a quantile or the longest is not above.
    """

    mean: float | None = None
    p50: int | None = None
    p95: int | None = None
    p99: int | None = None
    max: int | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """Whole days of a time zone, today the last of them.

    Args:
        starts: when each day begins, and the day after the last one: one more than there are days.
        now: the database's clock.
    """

    zone: ZoneInfo
    dates: Sequence[str]
    starts: Sequence[datetime]
    now: datetime

    @property
    def days(self) -> int:
        """How many."""
        return len(self.dates)


@dataclass(frozen=True, slots=True)
class Counted:
    """What a store counted within a window.

    Args:
        totals: sums of what the runs did, where their type has such.
    """

    days: Sequence[DayCount]
    spread: Spread
    totals: Mapping[str, int] | None = None


@dataclass(slots=True)
class _Tally:
    by_state: dict[str, int] = field(default_factory=dict)
    ms: int = 0

    def add(self, counted: DayCount) -> None:
        self.by_state[counted.state] = self.by_state.get(counted.state, 0) + counted.runs
        self.ms += counted.ms if counted.state in (*GOOD, *BAD) else 0

    def shown(self) -> dict[str, Any]:
        states = {name: self.by_state[name] for name in STATES if self.by_state.get(name)}
        ran = sum(self.by_state.get(name, 0) for name in (*GOOD, *BAD))
        mean = round(self.ms / ran, 1) if ran else None
        return {"runs": sum(states.values()), "by_state": states, "success_rate": success_rate(states), "mean_ms": mean}


def window(now: datetime, days: int, zone: ZoneInfo) -> Window:
    """The last days of a zone up to the end of today.

    Args:
        days: how many, today included.
    """
    today = now.astimezone(zone).date()
    dates = [today - timedelta(days=back) for back in range(days - 1, -2, -1)]
    # Where a midnight is skipped this is the moment of the jump, and the earlier one where it comes twice.
    starts = [datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC) for day in dates]
    return Window(zone, [day.isoformat() for day in dates[:-1]], starts, now)


def success_rate(by_state: Mapping[str, int]) -> float | None:
    """The share of successes among the runs that succeeded or failed; None if there are none."""
    good = sum(by_state.get(name, 0) for name in GOOD)
    ended = good + sum(by_state.get(name, 0) for name in BAD)
    return good / ended if ended else None


def spread_of_powers(buckets: Mapping[int, int], ms: int) -> Spread:
    """The spread of durations of which only powers of two are known.

    Args:
        buckets: k -> runs of at most 2^k ms and more than half of it.
        ms: how long all of them took together; the mean is exact.
    """
    runs = sum(buckets.values())
    if not runs:
        return Spread(exact=False)
    half, most, nearly_all = (_quantile(buckets, math.ceil(share * runs)) for share in QUANTILES)
    longest = 1 << max(power for power, number in buckets.items() if number)
    return Spread(round(ms / runs, 1), half, most, nearly_all, longest, exact=False)


def _quantile(buckets: Mapping[int, int], rank: int) -> int:
    reached = 0
    for power in sorted(buckets):
        reached += buckets[power]
        if reached >= rank:
            return 1 << power
    raise AssertionError("a rank above the number of runs")


def statistics(within: Window, counted: Counted, streak: Streak) -> dict[str, Any]:
    """What the window held, as API and command line show it: days without runs are there as well."""
    whole = _Tally()
    days = [_Tally() for _ in within.dates]
    for one in counted.days:
        whole.add(one)
        days[one.day].add(one)
    overall = whole.shown()
    del overall["mean_ms"]
    return {
        "days": within.days,
        "timezone": within.zone.key,
        "from": within.starts[0],
        "to": within.now,
        **overall,
        "duration_ms": asdict(counted.spread),
        "consecutive_failures": streak.failures,
        "last_success_at": streak.last_success_at,
        "last_failure_at": streak.last_failure_at,
        "totals": None if counted.totals is None else dict(counted.totals),
        "timeline": [{"date": date} | day.shown() for date, day in zip(within.dates, days, strict=True)],
    }
