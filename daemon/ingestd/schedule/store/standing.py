"""What gauges and health checks count; each costs little however many slots there are."""

from __future__ import annotations

from datetime import timedelta

import asyncpg

# Only what is late, missed or overdue is read, by indexes that hold nothing else.
SUMMARY = """
with odd as (
    select schedule, coalesce(sum(slots) filter (where state = 'missed'), 0)::bigint as missed,
           count(*) filter (where state = 'late') as late
    from ingestd.slot where state in ('late', 'missed') and due_at > now() - $1::interval group by schedule
), overdue as (
    select schedule, count(*) as jobs from ingestd.slot where check_at is not null and overdue is not null group by schedule
)
select s.name, s.next_due_at, coalesce(o.missed, 0) as missed, coalesce(o.late, 0) as late, coalesce(v.jobs, 0) as overdue
from ingestd.schedule s left join odd o on o.schedule = s.name left join overdue v on v.schedule = s.name
where s.removed_at is null order by s.name"""

# From one schedule that ever failed to the next, as a loose index scan, and only those whose newest end was a failure any further.
FAILING = """
with recursive failed(name) as (
    (select schedule from ingestd.slot where ended = 'failed' order by schedule limit 1)
    union all
    select (select l.schedule from ingestd.slot l where l.ended = 'failed' and l.schedule > f.name order by l.schedule limit 1)
    from failed f where f.name is not null
)
select s.name, n.failures, n.since, n.job_id
from failed f join ingestd.schedule s on s.name = f.name and s.removed_at is null and s.enabled
cross join lateral (
    select count(*) as failures, min(r.ended_at) as since, max(r.job_id) as job_id
    from (select l.ended, l.ended_at, l.job_id, count(*) filter (where l.ended <> 'failed') over (order by l.due_at desc) as successes
          from (select ended, ended_at, job_id, due_at from ingestd.slot
                where schedule = s.name and ended in ('succeeded', 'partial', 'failed') order by due_at desc limit $2) l) r
    where r.successes = 0
) n
where (select ended from ingestd.slot where schedule = s.name and ended in ('succeeded', 'partial', 'failed')
       order by due_at desc limit 1) = 'failed'
  and n.failures >= $1
order by n.failures desc, s.name"""
MOST_FAILURES = 1000

OVERDUE_JOBS = """
select schedule, due_at, job_id, reason, overdue_at, count(*) over () as jobs
from ingestd.slot where check_at is not null and overdue is not null order by overdue_at, schedule limit 3"""

# A schedule whose newest slot went by without a job; a later one, or a start by hand, makes up for it.
MISSED = """
select s.name, m.due_at, count(*) over () as schedules
from (select schedule, max(due_at) as due_at from ingestd.slot where state = 'missed' and due_at > now() - $1::interval group by schedule) m
join ingestd.schedule s on s.name = m.schedule and s.removed_at is null and s.enabled
where not exists (select from ingestd.slot l where l.schedule = m.schedule and l.due_at > m.due_at and l.state in ('fired', 'late'))
order by m.due_at desc, s.name limit 3"""

DOWNTIME = """
select count(*) as times, coalesce(sum(extract(epoch from ended_at - greatest(began_at, now() - $1::interval))), 0)::float8 as seconds
from ingestd.downtime where ended_at > now() - $1::interval"""
PULSE = "select extract(epoch from now() - at)::float8 from ingestd.schedule_pulse"


async def summary(conn: asyncpg.Connection, window: timedelta) -> list[asyncpg.Record]:
    """Each schedule's next moment, its late and missed slots within `window`, and its jobs that are overdue now."""
    rows: list[asyncpg.Record] = await conn.fetch(SUMMARY, window)
    return rows


async def failing(conn: asyncpg.Connection, at_least: int) -> list[asyncpg.Record]:
    """Schedules whose last so many ended jobs all failed, the worst first; beyond `MOST_FAILURES` it is not counted on."""
    rows: list[asyncpg.Record] = await conn.fetch(FAILING, at_least, MOST_FAILURES)
    return rows


async def overdue_jobs(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """The longest overdue of the jobs that are open past a deadline, each with their number in all."""
    rows: list[asyncpg.Record] = await conn.fetch(OVERDUE_JOBS)
    return rows


async def missed(conn: asyncpg.Connection, window: timedelta) -> list[asyncpg.Record]:
    """Some schedules that have missed a slot within `window` and not run since, each with their number in all."""
    rows: list[asyncpg.Record] = await conn.fetch(MISSED, window)
    return rows


async def downtime(conn: asyncpg.Connection, window: timedelta) -> tuple[int, float]:
    """How often nothing fired slots within `window`, and for how many seconds of it."""
    row = await conn.fetchrow(DOWNTIME, window)
    return row["times"], row["seconds"]


async def pulse_age(conn: asyncpg.Connection) -> float | None:
    """Seconds since slots were last looked after; None: never."""
    seconds: float | None = await conn.fetchval(PULSE)
    return seconds
