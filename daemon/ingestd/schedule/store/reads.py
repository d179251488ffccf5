"""Schedules and slots as people look at them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg

# The state of a slot's job, whether it is open or in history; `retrying` and its like as in the list of jobs.
_JOB_STATE = """
left join lateral (
    select case when j.claim is not null then 'running' when j.parked <> 0 then 'blocked'
                when j.run_at > now() then case when j.attempt > 0 then 'retrying' else 'scheduled' end else 'available' end as state,
           false as partial, null::bigint as duration_ms
    from ingestd.job j where j.id = l.job_id
    union all
    select h.state, h.partial, h.duration_ms from ingestd.history h where h.id = l.job_id
    limit 1
) o on l.job_id is not null"""

LIST = f"""
select s.name, s.rule, s.timezone, s.target, s.args, s.enabled, s.paused_at, s.paused_by, s.overlap, s.catch_up, s.start_within,
       s.owner, s.since, s.next_due_at, s.problem, q.name as queue, s.kind,
       l.due_at as last_due_at, l.state as last_state, l.reason as last_reason, l.job_id as last_job_id, o.state as last_job_state,
       o.partial as last_job_partial, o.duration_ms as last_job_duration_ms
from ingestd.schedule s join ingestd.queue q on q.id = s.queue_id
left join lateral (
    select due_at, state, reason, job_id from ingestd.slot where schedule = s.name order by due_at desc limit 1
) l on true
{_JOB_STATE}
where s.removed_at is null and ($1::text is null or s.name = $1)
order by s.name"""

RECENT = f"""
select l.schedule, l.due_at, l.state, l.reason, l.job_id, l.triggered_by, l.fired_at, l.recorded_at, l.first_due_at, l.slots,
       o.state as job_state, o.partial as job_partial, o.duration_ms as job_duration_ms
from unnest($1::text[]) as wanted(schedule)
cross join lateral (select * from ingestd.slot where schedule = wanted.schedule order by due_at desc limit $2) l
{_JOB_STATE}
order by l.schedule, l.due_at desc"""

RULE = "select rule, timezone, now() as now from ingestd.schedule where name = $1 and removed_at is null"

SUMMARY = """
select s.name, s.next_due_at, s.enabled and s.paused_at is null as running, s.problem,
       coalesce((select sum(t.slots) from ingestd.slot t where t.schedule = s.name and t.state = 'missed'
                 and t.due_at > now() - interval '24 hours'), 0)::bigint as missed
from ingestd.schedule s where s.removed_at is null order by s.name"""

OVERDUE = """
select name, next_due_at, extract(epoch from now() - next_due_at)::float8 as late_s from ingestd.schedule
where next_due_at < now() and removed_at is null and enabled and problem is null order by next_due_at limit 1"""
PROBLEMS = "select name, problem from ingestd.schedule where problem is not null and removed_at is null and enabled order by name"


async def list_schedules(conn: asyncpg.Connection, name: str | None = None) -> list[dict[str, Any]]:
    """Schedules in service, or the one of that name, each with its last slot and the state of that slot's job."""
    return [_shown(row) for row in await conn.fetch(LIST, name)]


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    shown = dict(row)
    last = {key.removeprefix("last_"): shown.pop(key) for key in list(shown) if key.startswith("last_")}
    shown["last_slot"] = last if last["due_at"] is not None else None
    shown["paused"] = shown["paused_at"] is not None
    return shown


async def recent_slots(conn: asyncpg.Connection, name: str, limit: int = 30) -> list[dict[str, Any]]:
    """The newest slots of a schedule, newest first, each with the state of its job."""
    return (await recent_slots_of(conn, [name], limit)).get(name, [])


async def recent_slots_of(conn: asyncpg.Connection, names: list[str], limit: int = 30) -> dict[str, list[dict[str, Any]]]:
    """The newest slots of several schedules, by name, newest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in await conn.fetch(RECENT, names, limit):
        slot = dict(row)
        found.setdefault(slot.pop("schedule"), []).append(slot)
    return found


async def stored_rule(conn: asyncpg.Connection, name: str) -> tuple[str, str, datetime] | None:
    """Rule and time zone of a schedule in service, and the database's clock."""
    row = await conn.fetchrow(RULE, name)
    return None if row is None else (row["rule"], row["timezone"], row["now"])


async def summary(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """For gauges: each schedule's next moment and its missed slots of the last day."""
    rows: list[asyncpg.Record] = await conn.fetch(SUMMARY)
    return rows


async def most_overdue(conn: asyncpg.Connection) -> asyncpg.Record | None:
    """The schedule whose slot has waited longest to be fired, if any waits."""
    row: asyncpg.Record | None = await conn.fetchrow(OVERDUE)
    return row


async def problems(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Schedules whose rule cannot be computed."""
    rows: list[asyncpg.Record] = await conn.fetch(PROBLEMS)
    return rows
