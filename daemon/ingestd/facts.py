"""Types in which rooms offer what they know about themselves to health, metrics and pages.

A room's `facts.py` returns a `RoomFacts`; `app` joins them into one `FactBook`, so that nobody asks a room directly.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import asyncpg

Status = Literal["healthy", "degraded", "critical"]
_ORDER: dict[Status, int] = {"healthy": 0, "degraded": 1, "critical": 2}


@dataclass(frozen=True, slots=True)
class Gauge:
    """One sample of a number that goes up and down.

    Args:
        name: metric name in base units, without the `ingestd_` prefix.
        value: the sample.
        labels: few and bounded: never ids, paths or error texts.
        help: one sentence.
    """

    name: str
    value: float
    help: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One health check's answer.

    Args:
        value: what was measured, in words or numbers.
        threshold: where it would turn.
        since: when it left `healthy`, if it did.
        hint: what to do about it.
    """

    name: str
    status: Status
    value: str = ""
    threshold: str = ""
    since: datetime | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept, as moments: whatever is older may go. One cleanup uses the same ones throughout.

    Args:
        history: of jobs that did not fail, and of what came with them.
        failed: of jobs that failed.
        audit: of the audit log.
        statistics: of folded statistics.
        now: the database's clock.
        exactly: by hand: partly old partitions lose their old rows as well, instead of going whole when their time is over.
    """

    history: datetime
    failed: datetime
    audit: datetime
    statistics: datetime
    now: datetime
    exactly: bool = False


@dataclass(frozen=True, slots=True)
class Cleared:
    """What one thing loses in a cleanup, or would.

    Args:
        what: the thing, in words.
        rows: counted, not estimated.
        bytes: given back to the operating system; what deleted rows held is used again instead.
        partitions: names of those that go whole.
        postponed: names of those that somebody held too long; the next cleanup takes them.
    """

    what: str
    rows: int = 0
    bytes: int = 0
    partitions: tuple[str, ...] = ()
    postponed: tuple[str, ...] = ()


GaugeSource = Callable[[asyncpg.Connection], Awaitable[list[Gauge]]]
CheckSource = Callable[[asyncpg.Connection], Awaitable[list[Check]]]
# Clears what is not kept, or with True as its last argument only counts it. The connection is in no transaction.
Clear = Callable[[asyncpg.Connection, Keep, bool], Awaitable[list[Cleared]]]


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """What one room offers: gauges and checks that read through a connection they are given, and what it forgets in time."""

    gauges: GaugeSource | None = None
    checks: CheckSource | None = None
    clear: Clear | None = None


@dataclass
class FactBook:
    """All rooms' facts, by room name."""

    rooms: dict[str, RoomFacts] = field(default_factory=dict)

    def add(self, room: str, facts: RoomFacts) -> None:
        """Enter one room's facts."""
        self.rooms[room] = facts


def worst(statuses: list[Status]) -> Status:
    """The worst of the given statuses; `healthy` if there are none."""
    return max(statuses, key=_ORDER.__getitem__, default="healthy")
