"""Slots that wait for a success before they get their job: found, and ended in one statement with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from ingestd.schedule.store.firing import HELD, IN_THE_WAY, JOBS, PAUSED_NOW, WATCHED, WATCHED_VALUES, RecordedSlot, to_recorded

# `newer`: a slot of the rule has been recorded since. What a person starts by hand takes nobody's place.
WAITING = f"""
select l.schedule, l.due_at, l.triggered_by, s.turn, s.after, s.start_within, s.jitter, now() as now,
       s.removed_at is null and s.name is not null as in_service, s.enabled,
       {PAUSED_NOW} as paused,
       (select min(n.due_at) from ingestd.slot n
        where n.schedule = l.schedule and n.due_at > l.due_at and n.triggered_by in ('schedule', 'catch_up')) as newer
from ingestd.slot l left join ingestd.schedule s on s.name = l.schedule
where l.state = 'waiting' order by l.due_at"""

# The row of the slot is the fence: only who finds it still waiting gives it a job, in the same statement. The schedule is held
# besides, as for any slot, so that two jobs of it do not start beside each other; a plan made on an older turn changes nothing.
# One whose schedule was deleted for good is ended without.
SETTLE = f"""
with wanted as (
    select * from unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::text[], $5::text[], $6::interval[])
        as w(schedule, due_at, turn, state, reason, delay)
), held as materialized (
    select {HELD}, s.turn, {PAUSED_NOW} as paused
    from ingestd.schedule s where s.name = any ($1) order by s.name for update of s skip locked
), judged as materialized (
    select w.*, coalesce(w.key, case when overlap = 'queue' then 'schedule:' || w.name end) as job_key,
        case when state in ('fired', 'late') and paused is not null then paused {IN_THE_WAY}
        end as skipped_because
    from (select n.*, h.name, h.overlap, h.last_job_id, h.kind, h.args, h.queue_id, h.rank, h.max_attempts, h.tags, h.key,
                 h.start_within, h.finish_within, h.target_runtime, h.paused, false as in_line,
                 row_number() over (partition by n.schedule, n.state in ('fired', 'late') order by n.due_at) as place
          from wanted n left join held h on h.name = n.schedule
          where h.turn = n.turn or not exists (select from ingestd.schedule g where g.name = n.schedule)) w
), slots as (
    update ingestd.slot l
    set state = case when d.skipped_because is null then d.state else 'skipped' end, reason = coalesce(d.skipped_because, d.reason),
        recorded_at = now(), job_id = d.job_id, fired_at = d.fired_at, start_by = d.start_by, finish_by = d.finish_by,
        target_runtime = d.target_runtime, check_at = d.check_at
    from (
        select schedule, due_at, state, reason, skipped_because, {WATCHED_VALUES}
        from (select j.*, j.state in ('fired', 'late') and j.skipped_because is null as runs from judged j) r
    ) d (schedule, due_at, state, reason, skipped_because, {WATCHED})
    where l.schedule = d.schedule and l.due_at = d.due_at and l.state = 'waiting'
    returning l.schedule, l.due_at, l.state, l.reason, l.job_id, l.triggered_by, l.first_due_at, l.slots
), {JOBS}
), moved as (
    update ingestd.schedule s set last_job_id = f.job_id, turn = s.turn + 1
    from (select schedule, max(job_id) as job_id from slots where job_id is not null group by schedule) f where s.name = f.schedule
)
select s.*, (select count(*) from told) as told from slots s order by s.due_at, s.schedule"""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a waiting slot ends.

    Args:
        turn: of its schedule when that was decided; None if there is no such schedule any more.
        state: `fired` or `late`, with a job; `skipped` or `missed`, without.
        delay: its job waits so long after the slot's time.
    """

    schedule: str
    due_at: datetime
    turn: int | None
    state: str
    reason: str | None
    delay: timedelta = timedelta()


async def waiting(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Slots that wait, the oldest first, with what their schedules say now; each row carries the database's clock as `now`."""
    rows: list[asyncpg.Record] = await conn.fetch(WAITING)
    return rows


async def settle(conn: asyncpg.Connection, settlements: Sequence[Settlement]) -> list[RecordedSlot]:
    """End waiting slots, enqueueing the jobs of those that run; returns those that nobody else had ended, in the order of time."""
    rows = await conn.fetch(
        SETTLE,
        [one.schedule for one in settlements],
        [one.due_at for one in settlements],
        [one.turn for one in settlements],
        [one.state for one in settlements],
        [one.reason for one in settlements],
        [one.delay for one in settlements],
    )
    return [to_recorded(row) for row in rows]
