"""Schedules and slots as people look at them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from ingestd.errors import NotFound
from ingestd.schedule.store.declared import names
from ingestd.settings import did_you_mean, format_duration

# How a slot's job stands: what the watch of slots wrote into the row once it had ended; before that, where the job is now.
# `retrying` and its like as in the list of jobs.
_LIVE = """
left join lateral (
    select case when j.claim is not null then 'running' when j.parked <> 0 then 'blocked'
                when j.run_at > now() then case when j.attempt > 0 then 'retrying' else 'scheduled' end else 'available' end as state,
           false as partial, null::bigint as duration_ms
    from ingestd.job j where j.id = l.job_id
    union all
    select h.state, h.partial, h.duration_ms from ingestd.history h where h.id = l.job_id
    limit 1
) o on l.job_id is not null and l.ended is null"""
_JOB = """coalesce(o.state, case l.ended when 'partial' then 'succeeded' else l.ended end) as {0}job_state,
       coalesce(o.partial, l.ended = 'partial') as {0}job_partial, coalesce(o.duration_ms, l.duration_ms) as {0}job_duration_ms"""
_SLOT = """l.due_at, l.state, l.reason, l.job_id, l.triggered_by, l.fired_at, l.recorded_at, l.first_due_at, l.slots,
       l.start_by, l.finish_by, l.ended, l.started_at, l.ended_at, l.overdue, l.overdue_at, l.slow_at"""
# Months are made ahead: without this bound each of them would be looked into for every schedule.
_PAST = "due_at < now() + interval '1 minute'"

LIST = f"""
select s.name, s.rule, s.timezone, s.starts_at as start, s.ends_at as "end", s.jitter, s.target, s.kind, s.args, q.name as queue,
       -s.rank as priority, s.tags, s.enabled, s.overlap, s.catch_up, s.max_catch_up, s.start_within, s.finish_within, s.target_runtime,
       s.after, s.owner, s.since, s.next_due_at, s.problem, s.spec,
       p.held as paused, case when p.held then s.paused_at end as paused_at, case when p.held then s.paused_by end as paused_by,
       case when p.held then s.paused_until end as paused_until, case when p.held then s.pause_reason end as pause_reason,
       s.skip_at, s.skip_by, s.skip_reason,
       l.due_at as last_due_at, l.state as last_state, l.reason as last_reason, l.job_id as last_job_id,
       l.triggered_by as last_triggered_by, l.overdue as last_overdue, {_JOB.format("last_")}
from ingestd.schedule s join ingestd.queue q on q.id = s.queue_id
cross join lateral (select s.paused_at is not null and (s.paused_until is null or s.paused_until > now()) as held) p
left join lateral (select * from ingestd.slot where schedule = s.name and {_PAST} order by due_at desc limit 1) l on true
{_LIVE}
where s.removed_at is null and ($1::text is null or s.name = $1) and ($2::text is null or s.name > $2)
order by s.name limit $3"""

RECENT = f"""
select l.schedule, {_SLOT}, {_JOB.format("")}
from unnest($1::text[]) as wanted(schedule)
cross join lateral (select * from ingestd.slot where schedule = wanted.schedule and {_PAST} order by due_at desc limit $2) l
{_LIVE}
order by l.schedule, l.due_at desc"""

# A page: the newest slots before a moment, which no two slots of a schedule share.
SLOTS = f"""
select {_SLOT}, {_JOB.format("")}
from (select * from ingestd.slot
      where schedule = $1 and {_PAST} and ($2::text[] is null or state = any ($2)) and ($3::timestamptz is null or due_at < $3)
      order by due_at desc limit $4) l
{_LIVE}
order by l.due_at desc"""

EVER_DECLARED = "select exists (select from ingestd.schedule where name = $1)"

DOWNTIMES = """
select id, began_at, ended_at, schedules, missed, late from ingestd.downtime
where $1::bigint is null or id < $1 order by id desc limit $2"""

RULE = """
select rule, timezone, starts_at, ends_at, greatest(now(), accounted_to) as begins from ingestd.schedule
where name = $1 and removed_at is null"""

OVERDUE = """
select name, next_due_at, extract(epoch from now() - next_due_at)::float8 as late_s from ingestd.schedule
where next_due_at < now() and removed_at is null and enabled and problem is null order by next_due_at limit 1"""
# A schedule is accounted for up to now at most, but for what was recorded while the clock was ahead.
AHEAD = """
select count(*) as schedules, max(accounted_to) as until from ingestd.schedule
where accounted_to > now() + interval '1 minute' and removed_at is null and enabled"""
PROBLEMS = "select name, problem from ingestd.schedule where problem is not null and removed_at is null and enabled order by name"


async def list_schedules(
    conn: asyncpg.Connection, name: str | None = None, after: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Schedules in service, by name, each with its last slot and the state of that slot's job.

    Args:
        name: only the one of that name.
        after: only names behind this one; the last one's for the next page.
        limit: at most so many; None: all.
    """
    return [_shown(row) for row in await conn.fetch(LIST, name, after, limit)]


async def find_schedule(conn: asyncpg.Connection, name: str) -> dict[str, Any]:
    """One schedule in service.

    Raises:
        NotFound: no such schedule.
    """
    found = await list_schedules(conn, name)
    if not found:
        raise await no_such_schedule(conn, name)
    return found[0]


async def no_such_schedule(conn: asyncpg.Connection, name: str) -> NotFound:
    """The error for a schedule that is not in service, with the nearest name that is."""
    return NotFound(f'there is no schedule "{name}"{did_you_mean(name, await names(conn))}')


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    """As people write it in a configuration: durations in words, what it waits for by its kind of thing."""
    shown = dict(row)
    last = {key.removeprefix("last_"): shown.pop(key) for key in list(shown) if key.startswith("last_")}
    shown["last_slot"] = last if last["due_at"] is not None else None
    for key in ("jitter", "start_within", "finish_within", "target_runtime"):
        shown[key] = format_duration(shown[key]) if shown[key] else None
    shown["after"] = [
        {one["type"]: one["name"], "ok_within": format_duration(timedelta(seconds=one["ok_within_s"])), "on_failure": one["on_failure"]}
        for one in shown["after"]
    ]
    return shown


async def recent_slots_of(conn: asyncpg.Connection, names: list[str], limit: int = 30) -> dict[str, list[dict[str, Any]]]:
    """The newest slots of several schedules, by name, newest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in await conn.fetch(RECENT, names, limit):
        slot = dict(row)
        found.setdefault(slot.pop("schedule"), []).append(slot)
    return found


async def require_ever_declared(conn: asyncpg.Connection, name: str) -> None:
    """A schedule that is out of service still has its slots.

    Raises:
        NotFound: there never was one of that name.
    """
    if not await conn.fetchval(EVER_DECLARED, name):
        raise await no_such_schedule(conn, name)


async def list_slots(
    conn: asyncpg.Connection, name: str, states: Sequence[str] | None = None, before: datetime | None = None, limit: int = 30
) -> list[dict[str, Any]]:
    """Slots of a schedule, newest first, each with the state of its job.

    Args:
        states: only slots in one of these; None: in any.
        before: only slots due before; the last one's `due_at` for the next page.
    """
    return [dict(row) for row in await conn.fetch(SLOTS, name, None if states is None else list(states), before, limit)]


async def list_downtimes(conn: asyncpg.Connection, before_id: int | None = None, limit: int = 30) -> list[dict[str, Any]]:
    """Times in which nothing fired slots, newest first.

    Args:
        before_id: only those with a smaller number; the last one's for the next page.
    """
    return [dict(row) for row in await conn.fetch(DOWNTIMES, before_id, limit)]


async def stored_rule(conn: asyncpg.Connection, name: str) -> asyncpg.Record | None:
    """What the slots of a schedule in service are computed from, and when the next ones begin: later than now after a clock set back."""
    row: asyncpg.Record | None = await conn.fetchrow(RULE, name)
    return row


async def most_overdue(conn: asyncpg.Connection) -> asyncpg.Record | None:
    """The schedule whose slot has waited longest to be fired, if any waits."""
    row: asyncpg.Record | None = await conn.fetchrow(OVERDUE)
    return row


async def ahead(conn: asyncpg.Connection) -> asyncpg.Record | None:
    """How many schedules have recorded slots of the future, and up to when; None if there are none."""
    row: asyncpg.Record = await conn.fetchrow(AHEAD)
    return row if row["schedules"] else None


async def problems(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Schedules whose rule cannot be computed."""
    rows: list[asyncpg.Record] = await conn.fetch(PROBLEMS)
    return rows
