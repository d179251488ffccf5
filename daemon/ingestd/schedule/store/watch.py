"""What the watch of slots reads and writes: slots to look at, their jobs, whether anybody fires slots at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from ingestd.jobs.model import PARKED_CHILDREN
from ingestd.schedule.deadlines import Finding, JobNow, WatchedSlot

# Asked every few seconds by every node: a few looks into small indexes. A look moves check_at on, and what it was stays in the index
# as long as vacuum may not remove it: hence the floor, below which only a sweep looks.
GLANCE = """
select (select extract(epoch from min(check_at) - clock_timestamp())::float8 from ingestd.slot where check_at >= $3) as check_in,
       (select max(check_at) > now() + $2::interval from ingestd.slot where check_at is not null) as too_far,
       now() as now, p.at as pulse, d.waiting, d.oldest
from (select count(*) as waiting, min(next_due_at) as oldest from ingestd.schedule
      where next_due_at < now() - $1::interval and removed_at is null and enabled and problem is null) d
left join ingestd.schedule_pulse p on p.one"""

_SLOT = """schedule, due_at, state, reason, job_id, fired_at, retried_at, start_by, finish_by, target_runtime, started_at, overdue,
       slow_at"""
# Slots that another node looks at just now are passed by.
DUE = "select schedule, due_at from ingestd.slot where check_at <= now() and check_at >= $2 order by check_at limit $1"
HOLD = f"""
select {_SLOT}, now() as now from ingestd.slot where check_at <= now() and check_at >= $2
order by check_at limit $1 for update skip locked"""
HOLD_ONE = f"""
select {_SLOT}, now() as now from ingestd.slot where schedule = $1 and due_at = $2 and check_at <= now() for update skip locked"""

# After the slots are held, so that whoever brings a job back meanwhile waits with opening its slot again until this is written.
# A job that has started a workflow is open while the run is; a retried run has an ended job, whose newest run counts.
# $2 and $3 bound the time in which jobs of these slots may have ended, and with it the partitions that are read.
JOBS = f"""
select a.id, j.id is not null as open, j.claimed_at,
       case when j.parked & {PARKED_CHILDREN} <> 0 then j.run_at end as parked_at,
       jsonb_path_query_array(coalesce(j.attempts, h.attempts), '$[*].started_at') as attempts,
       h.state, h.partial, h.finished_at, h.duration_ms, h.started_at is not null as has_started,
       r.state as run_state, r.created_at as run_started_at, r.finished_at as run_finished_at
from unnest($1::bigint[]) a(id)
left join ingestd.job j on j.id = a.id
left join lateral (
    select state, partial, finished_at, duration_ms, started_at, attempts from ingestd.history
    where id = a.id and j.id is null and finished_at >= $2 and finished_at < $3 order by finished_at desc limit 1
) h on true
left join lateral (
    select state, created_at, finished_at from ingestd.workflow_run where job_id = a.id order by id desc limit 1
) r on true"""

WRITE = """
update ingestd.slot s
set state = w.state, reason = w.reason, check_at = w.check_at, ended = w.ended, started_at = w.started_at, ended_at = w.ended_at,
    duration_ms = w.duration_ms, overdue = w.overdue,
    overdue_at = case when w.overdue is distinct from s.overdue then now() else s.overdue_at end, slow_at = w.slow_at
from unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::timestamptz[],
            $8::timestamptz[], $9::bigint[], $10::text[], $11::timestamptz[])
     as w(schedule, due_at, state, reason, check_at, ended, started_at, ended_at, duration_ms, overdue, slow_at)
where s.schedule = w.schedule and s.due_at = w.due_at"""

# Looks are never so far ahead: the server's clock was set back.
FARTHEST = timedelta(minutes=10)
PULL_NEAR = "update ingestd.slot set check_at = now() where check_at > now() + $1::interval"
PUT_OFF = "update ingestd.slot set check_at = now() + $3::interval where schedule = $1 and due_at = $2 and check_at is not null"

_OPEN_RUNS = ("waiting", "running", "compensating")
# Around the time in which the jobs of some slots can have ended: clocks of servers step, too.
MARGIN = timedelta(days=1)
EVER = (datetime.fromisoformat("2000-01-01T00:00:00Z"), datetime.fromisoformat("9000-01-01T00:00:00Z"))


@dataclass(frozen=True, slots=True)
class Glance:
    """Whether there is something to look at.

    Args:
        check_in: seconds until a slot has to be looked at, 0 or less if one has; None: there is none.
        now: the database's clock.
        too_far: some are to be looked at later than any look is ever planned.
        silent_since: since when nobody fires slots that are due; None: somebody does, or none has been for long.
        waiting: how many schedules have been due for long.
    """

    check_in: float | None
    now: datetime
    too_far: bool = False
    silent_since: datetime | None = None
    waiting: int = 0


async def glance(conn: asyncpg.Connection, patience: timedelta, floor: datetime | None = None) -> Glance:
    """What has to be looked at, and whether slots are fired, in one cheap statement.

    Args:
        patience: how long slots may wait for a scheduler that gives no sign. One that does, and fires none all the same, gets five
            times that: it may be busy with a long gap.
        floor: slots that were to be looked at before that have been; None: who knows.
    """
    row = await conn.fetchrow(GLANCE, patience, FARTHEST, floor or EVER[0])
    since = None
    if row["waiting"] and (row["pulse"] is None or row["now"] - row["pulse"] > patience):
        since = row["pulse"] or row["oldest"]
    elif row["waiting"] and row["now"] - row["oldest"] > 5 * patience:
        since = row["oldest"]
    return Glance(row["check_in"], row["now"], bool(row["too_far"]), since, row["waiting"])


async def pull_near(conn: asyncpg.Connection) -> None:
    """Have slots looked at now whose next look lies where only another clock could have put it."""
    await conn.execute(PULL_NEAR, FARTHEST)


async def due(conn: asyncpg.Connection, limit: int, floor: datetime | None = None) -> list[tuple[str, datetime]]:
    """Which slots have to be looked at, not held: schedule and due time."""
    return [(row["schedule"], row["due_at"]) for row in await conn.fetch(DUE, limit, floor or EVER[0])]


async def hold(conn: asyncpg.Connection, limit: int, floor: datetime | None = None) -> tuple[datetime | None, list[WatchedSlot]]:
    """Hold slots that have to be looked at to the end of the transaction, without those that another node holds.

    Returns:
        The database's clock, None where there are none, and the slots.
    """
    return _held(await conn.fetch(HOLD, limit, floor or EVER[0]))


async def hold_one(conn: asyncpg.Connection, schedule: str, due_at: datetime) -> tuple[datetime | None, list[WatchedSlot]]:
    """As `hold`, of one slot."""
    return _held(await conn.fetch(HOLD_ONE, schedule, due_at))


def _held(rows: Sequence[asyncpg.Record]) -> tuple[datetime | None, list[WatchedSlot]]:
    slots = [WatchedSlot(**{key: value for key, value in row.items() if key != "now"}) for row in rows]
    return rows[0]["now"] if rows else None, slots


async def jobs_of(conn: asyncpg.Connection, slots: Sequence[WatchedSlot], now: datetime) -> dict[int, JobNow]:
    """What has become of the jobs of these slots, by id; those that are gone are left out."""
    ids = sorted({slot.job_id for slot in slots})
    found = await _jobs(conn, ids, min(slot.fired_at for slot in slots) - MARGIN, now + MARGIN)
    lost = [number for number in ids if number not in found]
    return found | (await _jobs(conn, lost, *EVER) if lost else {})


async def _jobs(conn: asyncpg.Connection, ids: Sequence[int], earliest: datetime, latest: datetime) -> dict[int, JobNow]:
    rows = await conn.fetch(JOBS, ids, earliest, latest)
    return {row["id"]: job for row in rows if (job := _job_now(row)) is not None}


def _job_now(row: asyncpg.Record) -> JobNow | None:
    starts = [moment for moment in (row["claimed_at"], row["parked_at"], row["run_started_at"]) if moment is not None]
    starts += _moments(row["attempts"])
    if row["has_started"]:
        # The end by the database's clock: that of the node which noted the start may be wrong.
        starts.append(row["finished_at"] - timedelta(milliseconds=row["duration_ms"] or 0))
    is_run = row["run_state"] is not None
    if row["open"] or row["run_state"] in _OPEN_RUNS:
        return JobNow(starts, is_run=is_run)
    if is_run:
        return JobNow(starts, row["run_state"], row["run_finished_at"], is_run=True)
    if row["state"] is None:
        return None
    return JobNow(starts, "partial" if row["partial"] else row["state"], row["finished_at"])


def _moments(texts: Iterable[Any] | None) -> list[datetime]:
    found = []
    for text in texts or ():
        with suppress(ValueError):
            moment = datetime.fromisoformat(str(text))
            found.append(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    return found


async def write(conn: asyncpg.Connection, findings: Sequence[Finding]) -> None:
    """Record what was found about slots that are held."""
    await conn.execute(
        WRITE,
        [found.slot.schedule for found in findings],
        [found.slot.due_at for found in findings],
        [found.state for found in findings],
        [found.reason for found in findings],
        [found.check_at for found in findings],
        [found.ended for found in findings],
        [found.started_at for found in findings],
        [found.ended_at for found in findings],
        [found.duration_ms for found in findings],
        [found.overdue for found in findings],
        [found.slow_at for found in findings],
    )


async def put_off(conn: asyncpg.Connection, schedule: str, due_at: datetime, wait: timedelta) -> None:
    """Look at a slot again later that cannot be judged now."""
    await conn.execute(PUT_OFF, schedule, due_at, wait)
