"""What the room knows about itself: whether slots are fired, what was missed, late or overdue, what keeps failing, the ping."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg

from ingestd.facts import Check, Gauge, RoomFacts
from ingestd.schedule.scheduler import EVERY_S, Scheduler
from ingestd.schedule.store import reads
from ingestd.schedule.store import standing as store
from ingestd.schedule.store.retention import clear
from ingestd.schedule.store.watch import glance
from ingestd.schedule.watch import SILENCE, SlotWatch

if TYPE_CHECKING:
    from ingestd.schedule.ping import Ping  # with its HTTP client, which no command needs

OVERDUE_S = SILENCE.total_seconds()
WINDOW = timedelta(hours=24)
# With more schedules than that, only those that have something to tell are gauged one by one.
GAUGED_ALL = 1000
_NAME = "schedules"
_LIMIT = f"{OVERDUE_S:.0f} s"
_EACH = {
    "missed": ("schedule_missed_slots", "Slots missed within the last 24 hours."),
    "late": ("schedule_late_slots", "Slots that were late, or whose job was, within the last 24 hours."),
    "overdue": ("schedule_overdue_jobs", "Open jobs of the schedule that have not started or ended by its deadline."),
    "failures": ("schedule_consecutive_failures", "Ended jobs of the schedule that failed in a row, up to the last one."),
}


async def gauges(conn: asyncpg.Connection) -> list[Gauge]:
    """Numbers of each schedule, and how long nothing fired slots."""
    rows = await store.summary(conn, WINDOW)
    failures = {row["name"]: row["failures"] for row in await store.failing(conn, 1)}
    found: list[Gauge] = []
    for row in rows:
        labels = {"schedule": row["name"]}
        if row["next_due_at"] is not None:
            help_next = "When the schedule's next slot is due, in Unix time."
            found.append(Gauge("schedule_next_run_timestamp_seconds", row["next_due_at"].timestamp(), help_next, labels))
        numbers = {**row, "failures": failures.get(row["name"], 0)}
        found += [
            Gauge(name, float(numbers[key]), text, labels) for key, (name, text) in _EACH.items() if numbers[key] or len(rows) <= GAUGED_ALL
        ]
    return [*found, *await _common(conn)]


async def _common(conn: asyncpg.Connection) -> list[Gauge]:
    times, seconds = await store.downtime(conn, WINDOW)
    found = [
        Gauge("schedule_downtimes", float(times), "Times within the last 24 hours in which nothing fired slots."),
        Gauge("schedule_downtime_seconds", seconds, "How long nothing fired slots within the last 24 hours."),
    ]
    age = await store.pulse_age(conn)
    return found if age is None else [*found, Gauge("schedule_pulse_age_seconds", age, "Time since slots were last looked after.")]


def facts(
    scheduler: Scheduler | None = None,
    watch: SlotWatch | None = None,
    ping: Ping | None = None,
    failures_in_a_row: Callable[[], int] = lambda: 3,
) -> RoomFacts:
    """The room's gauges and checks, and what it forgets.

    Args:
        scheduler: this node's, where it has the duty; its loop is watched too.
        watch: this node's watch of slots.
        ping: what calls the URL of `[heartbeat]`.
        failures_in_a_row: so many make a schedule unhealthy.
    """

    async def checks(conn: asyncpg.Connection) -> list[Check]:
        firing = _check_loop(scheduler) or await _check_stopped(conn, watch) or _check_watch(watch) or await _check_rules(conn)
        firing = firing or await _check_clock(conn) or await _check_due(conn)
        found = [firing, await _check_missed(conn), await _check_overdue(conn)]
        found.append(await _check_failing(conn, failures_in_a_row()))
        return [*found, _check_ping(ping)] if ping is not None and ping.on else found

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


async def _check_stopped(conn: asyncpg.Connection, watch: SlotWatch | None) -> Check | None:
    """What the watch is sure of; where there is none, what one look says."""
    if watch is not None and watch.stopped_since is None:
        return None
    seen = await glance(conn, SILENCE)
    if seen.silent_since is None:
        return None
    return Check(
        _NAME,
        "critical",
        f"no node has fired slots since {seen.silent_since:%Y-%m-%d %H:%M:%S %Z}; {seen.waiting} schedules are due",
        _LIMIT,
        since=seen.silent_since,
        hint='start a node with the duty "schedule", or restart the one that has it: `ingestd nodes list` shows which do',
    )


def _check_watch(watch: SlotWatch | None) -> Check | None:
    troubles = watch.troubles if watch is not None else []
    if not troubles:
        return None
    value = f"{len(troubles)} slots cannot be watched: {troubles[0]}"
    return Check(_NAME, "degraded", value[:300], "0", hint="each is tried again every five minutes; see the log")


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


async def _check_clock(conn: asyncpg.Connection) -> Check | None:
    """Slots of the future were fired when the database's clock was ahead, and none fires twice: until then nothing does."""
    row = await reads.ahead(conn)
    if row is None:
        return None
    return Check(
        _NAME,
        "degraded",
        f"the database's clock was set back: {row['schedules']} schedules have no slots before {row['until']:%Y-%m-%d %H:%M:%S %Z}",
        "0",
        hint="is the clock right now? Then `ingestd schedules resume NAME --from-now` has one go on at once; otherwise when it gets there",
    )


async def _check_due(conn: asyncpg.Connection) -> Check:
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


async def _check_missed(conn: asyncpg.Connection) -> Check:
    rows = await store.missed(conn, WINDOW)
    if not rows:
        return Check("schedules_missed", "healthy", "none that has not run since", "0")
    first = rows[0]
    return Check(
        "schedules_missed",
        "degraded",
        _several([f"{row['name']} missed its slot of {row['due_at']:%Y-%m-%d %H:%M:%S %Z}" for row in rows], first["schedules"]),
        "0",
        since=min(row["due_at"] for row in rows),
        hint=f"ingestd schedules trigger {first['name']} makes up for it; so does its next slot",
    )


async def _check_overdue(conn: asyncpg.Connection) -> Check:
    rows = await store.overdue_jobs(conn)
    if not rows:
        return Check("schedules_overdue", "healthy", "no open job is past its deadline", "0")
    first = rows[0]
    return Check(
        "schedules_overdue",
        "degraded",
        # The last of its reasons is the deadline.
        _several([f"job {row['job_id']} of {row['schedule']}: {row['reason'].rpartition('; ')[2]}" for row in rows], first["jobs"]),
        "0",
        since=min(row["overdue_at"] for row in rows),
        hint=f"ingestd jobs show {first['job_id']} says what it waits for or does; ingestd jobs cancel {first['job_id']} ends it",
    )


async def _check_failing(conn: asyncpg.Connection, at_least: int) -> Check:
    rows = await store.failing(conn, at_least)
    if not rows:
        return Check("schedules_failing", "healthy", f"none failed {at_least} times in a row", str(at_least))
    first = rows[0]
    return Check(
        "schedules_failing",
        "degraded",
        _several([f"{row['name']} failed {row['failures']} times in a row" for row in rows[:3]], len(rows)),
        str(at_least),
        since=min(row["since"] for row in rows),
        hint=f"ingestd jobs show {first['job_id']} tells why the last one failed",
    )


def _several(named: list[str], number: int) -> str:
    return "; ".join(named) + (f"; and {number - len(named)} more" if number > len(named) else "")


def _check_ping(ping: Ping) -> Check:
    known = ping.known
    last = "none has arrived yet" if known.last_success is None else f"the last arrived {time.monotonic() - known.last_success:.0f} s ago"
    if known.problem is None:
        return Check("heartbeat", "healthy", last)
    return Check(
        "heartbeat",
        "degraded",
        f"{known.problem}; {last}",
        hint="no call is made while slots stand still: see the check `schedules`"
        if known.problem.startswith("withheld")
        else "is [heartbeat] url right, and may this machine reach it?",
    )
