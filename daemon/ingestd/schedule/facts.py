"""What the room knows about itself: when each schedule is next, what was missed, whether slots are fired at all."""

from __future__ import annotations

import time

import asyncpg

from ingestd.facts import Check, Gauge, RoomFacts
from ingestd.schedule.scheduler import EVERY_S, Scheduler
from ingestd.schedule.store import reads
from ingestd.schedule.store.retention import clear

OVERDUE_S = 60.0
_NAME = "schedules"
_LIMIT = f"{OVERDUE_S:.0f} s"


async def gauges(conn: asyncpg.Connection) -> list[Gauge]:
    """The next moment of each schedule and how many of its slots were missed within a day."""
    found: list[Gauge] = []
    for row in await reads.summary(conn):
        labels = {"schedule": row["name"]}
        if row["next_due_at"] is not None:
            help_next = "When the schedule's next slot is due, in Unix time."
            found.append(Gauge("schedule_next_run_timestamp_seconds", row["next_due_at"].timestamp(), help_next, labels))
        help_missed = "Slots missed within the last 24 hours."
        found.append(Gauge("schedule_missed_slots", float(row["missed"]), help_missed, labels))
    return found


def facts(scheduler: Scheduler | None = None) -> RoomFacts:
    """The room's gauges and checks, and what it forgets.

    Args:
        scheduler: this node's, where it has the duty; its loop is watched too.
    """

    async def checks(conn: asyncpg.Connection) -> list[Check]:
        return [_check_loop(scheduler) or await _check_rules(conn) or await _check_overdue(conn)]

    return RoomFacts(gauges=gauges, checks=checks, clear=clear)


def _check_loop(scheduler: Scheduler | None) -> Check | None:
    if scheduler is None:
        return None
    state = scheduler.state
    if state.failures:
        return Check(_NAME, "degraded", f"the loop failed {state.failures} times: {state.error}", "0", hint="see the log")
    silent = time.monotonic() - state.last_tick if state.last_tick else 0.0
    if silent > OVERDUE_S:
        return Check(_NAME, "degraded", f"the loop has not turned for {silent:.0f} s", f"{EVERY_S:.0f} s", hint="restart this node")
    return None


async def _check_rules(conn: asyncpg.Connection) -> Check | None:
    problems = await reads.problems(conn)
    if not problems:
        return None
    first = problems[0]
    return Check(
        _NAME,
        "degraded",
        f"{len(problems)} cannot be computed: {first['name']}: {first['problem']}",
        "0",
        hint="correct the schedule's rule or time zone and reload, or update the time zone data",
    )


async def _check_overdue(conn: asyncpg.Connection) -> Check:
    row = await reads.most_overdue(conn)
    if row is None or row["late_s"] <= OVERDUE_S:
        return Check(_NAME, "healthy", f"{row['name']} is due" if row else "no slot waits", _LIMIT)
    return Check(
        _NAME,
        "degraded",
        f"{row['name']} has waited {row['late_s']:.0f} s to be fired",
        _LIMIT,
        since=row["next_due_at"],
        hint="no node fires slots: run one with the schedule duty",
    )
