"""History, statistics, last and status of schedules, imports, workflows and kinds: one answer for whatever runs again and again.

Both the API and the command line ask here; each room's store says what a run of it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

import asyncpg

from ingestd.errors import NotFound, UsageError
from ingestd.imports.store import records as import_records
from ingestd.jobs.records import BAD, DAYS, GOOD, MOST_DAYS, STATES, Counted, Run, RunFilter, Streak, Window, statistics, window
from ingestd.jobs.store import kind_records, run_records
from ingestd.jobs.store import queues as queue_store
from ingestd.schedule.store import declared as schedule_store
from ingestd.schedule.store import records as slot_records
from ingestd.schedule.store.firing import now as database_now
from ingestd.schedule.zones import find_zone
from ingestd.settings import did_you_mean

Kept = Literal["schedule", "import", "workflow", "kind"]
KEPT: tuple[Kept, ...] = ("schedule", "import", "workflow", "kind")
_MOST_RUNNING = 20
# What a schedule calls such a thing as its target.
_TARGETS: Mapping[Kept, str] = {"import": "import", "workflow": "workflow", "kind": "job"}


class _Store(Protocol):
    async def history(self, conn: asyncpg.Connection, name: str, which: RunFilter, limit: int) -> list[Run]: ...
    async def counted(self, conn: asyncpg.Connection, name: str, within: Window) -> Counted: ...
    async def streaks(self, conn: asyncpg.Connection, names: Collection[str]) -> dict[str, Streak]: ...


_STORES: Mapping[Kept, _Store] = {"schedule": slot_records, "import": import_records, "workflow": run_records, "kind": kind_records}


@dataclass(frozen=True, slots=True)
class Subject:
    """Something whose runs are kept.

    Args:
        declared: names of its type in the configuration; one that is declared no more still has its records.
    """

    type: Kept
    name: str
    declared: Collection[str] = ()

    @property
    def store(self) -> _Store:
        """Where its runs are."""
        return _STORES[self.type]

    @property
    def head(self) -> dict[str, str]:
        """How every answer about it begins."""
        return {"type": self.type, "name": self.name}


def read_states(text: str | None) -> tuple[str, ...]:
    """The states asked for, with commas between them.

    Raises:
        UsageError: a word is none.
    """
    words = tuple(dict.fromkeys(word.strip() for word in text.split(","))) if text else ()
    for word in words:
        if word not in STATES:
            near = did_you_mean(word, STATES) or f"; one of: {', '.join(STATES)}"
            raise UsageError(f'"state" cannot be "{word[:100]}"{near}')
    return words


def position_of(of: Subject, text: str) -> int:
    """Where a run stands in its list, by its id.

    Raises:
        UsageError: no run of this type has such an id.
    """
    try:
        if of.type == "schedule":
            return slot_records.position(datetime.fromisoformat(text))
        if text.isascii() and text.isdigit() and 0 < int(text) < 2**63:
            return int(text)
    except (ValueError, OverflowError):
        pass
    said = "a slot's due time with its offset, such as 2027-01-31T06:00:00Z" if of.type == "schedule" else "the number of a run"
    raise UsageError(f'"{text[:100]}" is not {said}')


async def history(conn: asyncpg.Connection, of: Subject, which: RunFilter, limit: int) -> list[Run]:
    """Runs, newest first.

    Raises:
        NotFound: there is no such thing.
    """
    await _require(conn, of)
    return await of.store.history(conn, of.name, which, limit)


async def totals(conn: asyncpg.Connection, of: Subject, days: int = DAYS, timezone: str | None = None) -> dict[str, Any]:
    """What the last days held.

    Args:
        days: how many, today included.
        timezone: in which days begin; None: the schedule's own, UTC for everything else.

    Raises:
        NotFound: there is no such thing.
        UsageError: there is no such time zone, or too many days were asked for.
    """
    if not 1 <= days <= MOST_DAYS:
        raise UsageError(f'"days" must be a number from 1 to {MOST_DAYS}')
    own = await _require(conn, of)
    try:
        zone = find_zone(timezone or own or "UTC")
    except ValueError as error:
        if timezone is not None:
            raise UsageError(f'"timezone": {error}') from None
        zone = find_zone("UTC")  # a schedule whose zone this machine has lost: its problem is told where its slots are
    within = window(await database_now(conn), days, zone)
    counted = await of.store.counted(conn, of.name, within)
    return of.head | statistics(within, counted, await _streak(conn, of))


async def last(conn: asyncpg.Connection, of: Subject) -> dict[str, Any]:
    """The newest run, the newest success and the newest failure.

    Raises:
        NotFound: there is no such thing.
    """
    await _require(conn, of)
    newest, good, bad = [await of.store.history(conn, of.name, RunFilter(states), 1) for states in ((), GOOD, BAD)]
    found = {"run": newest, "last_success": good, "last_failure": bad}
    return of.head | {what: runs[0].shown() if runs else None for what, runs in found.items()}


async def status(conn: asyncpg.Connection, of: Subject, failures_in_a_row: int) -> dict[str, Any]:
    """What it is now.

    Args:
        failures_in_a_row: so many make it unhealthy.

    Raises:
        NotFound: there is no such thing.
    """
    await _require(conn, of)
    running = await of.store.history(conn, of.name, RunFilter(("running",)), _MOST_RUNNING)
    newest = await of.store.history(conn, of.name, RunFilter(), 1)
    streak = await _streak(conn, of)
    stands = await _standing(conn, of)
    problems = [stands.pop("problem")] if stands.get("problem") else []
    if streak.failures >= failures_in_a_row:
        problems.append(f"its last {streak.failures} runs failed" if streak.failures > 1 else "its last run failed")
    state = "running" if running else "disabled" if not stands["enabled"] else "paused" if stands["paused"] else "idle"
    return of.head | {
        "state": state,
        "healthy": not problems,
        "problems": problems,
        "enabled": stands["enabled"],
        "paused": stands["paused"],
        "paused_by": stands["paused_by"],
        "running_job_id": str(running[0].job_id) if running and running[0].job_id is not None else None,
        "running": [run.in_short() for run in running],
        "next_due_at": stands["next_due_at"],
        "last_run": newest[0].in_short() if newest else None,
        "consecutive_failures": streak.failures,
        "last_success_at": streak.last_success_at,
        "last_failure_at": streak.last_failure_at,
    }


async def _standing(conn: asyncpg.Connection, of: Subject) -> dict[str, Any]:
    if of.type == "schedule":
        row = await slot_records.standing(conn, of.name)
        assert row is not None
        enabled = row["enabled"] and row["removed_at"] is None
        return {**row, "enabled": enabled, "paused_by": row["paused_by"] if row["paused"] else None}
    queue = None if of.type == "workflow" else await kind_records.queue_of(conn, "load" if of.type == "import" else of.name)
    enabled = of.type == "kind" or of.name in of.declared
    paused = queue is not None and queue["paused"]
    moment: datetime | None = await slot_records.next_of_target(conn, _TARGETS[of.type], of.name)
    return {"enabled": enabled, "paused": paused, "paused_by": queue["paused_by"] if queue and paused else None, "next_due_at": moment}


async def _streak(conn: asyncpg.Connection, of: Subject) -> Streak:
    return (await of.store.streaks(conn, [of.name]))[of.name]


async def _require(conn: asyncpg.Connection, of: Subject) -> str | None:
    """Refuse what is not there, nor ever was; the time zone of a schedule."""
    if of.type == "schedule":
        row = await slot_records.standing(conn, of.name)
        if row is not None:
            zone: str = row["timezone"]
            return zone
        raise _unknown(of, await schedule_store.names(conn))
    if of.type == "kind":
        if not await kind_records.known(conn, of.name):
            raise _unknown(of, [row["name"] for row in await queue_store.kinds(conn)])
        return None
    ever = import_records.known if of.type == "import" else run_records.known
    if of.name not in of.declared and not await ever(conn, of.name):
        raise _unknown(of, of.declared)
    return None


def _unknown(of: Subject, known: Collection[str]) -> NotFound:
    return NotFound(f'there is no {of.type} "{of.name[:200]}"{did_you_mean(of.name, known)}')
