"""What people change about a schedule in service: it is held, started by hand, paused, and one slot of it is passed over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from ingestd.schedule.store.declared import TELL_CHANGED
from ingestd.schedule.store.firing import BUSY_RUN, OPEN_JOB

HOLD_ONE = """
select s.name, s.rule, s.timezone, s.starts_at, s.ends_at, s.enabled, s.overlap, s.next_due_at, s.accounted_to,
       s.kind, s.args, s.rank, s.max_attempts, s.key, s.tags, q.name as queue, s.triggers,
       s.paused_at is not null and (s.paused_until is null or s.paused_until > now()) as paused, s.paused_until, s.pause_reason,
       s.skip_at, s.skip_reason, now() as now
from ingestd.schedule s join ingestd.queue q on q.id = s.queue_id
where s.name = $1 and s.removed_at is null for update of s"""
# Apart from HOLD_ONE: a statement that waited for the row would still not see the job of the one it waited for.
FIND_OPEN_JOB = f"select last_job_id from ingestd.schedule where name = $1 and {OPEN_JOB}"
FIND_BUSY_RUN = f"select {BUSY_RUN} from ingestd.schedule w where w.name = $1 and w.kind = 'workflow'"

# Read while the schedule is held, so that no two are alike; and never on a whole second, which belongs to the slots of its rule.
MOMENT = """
select case when t = date_trunc('second', t) then t + interval '1 microsecond' else t end from clock_timestamp() t"""
# A database that no daemon has looked after for a year may have none for this month.
NEED_PARTITION = """
select ingestd.make_slot_partition($1)
where to_regclass('ingestd.slot_' || to_char($1::timestamptz at time zone 'UTC', 'YYYYMM')) is null"""
# A new turn: a node that has planned without knowing of this job must not fire beside it.
TRIGGERED = """
with turned as (
    update ingestd.schedule set last_job_id = $2, triggers = $6, turn = turn + 1 where name = $1
    returning name, start_within, finish_within, target_runtime
)
insert into ingestd.slot (schedule, due_at, state, reason, job_id, triggered_by, fired_at, start_by, finish_by, target_runtime, check_at)
select name, $3::timestamptz, 'fired', $4, $2, $5, $3, $3 + start_within, $3 + finish_within, target_runtime, now() + interval '1 second'
from turned"""

# Pausing again keeps since when it has been, and goes over to whoever said the last word about it.
PAUSE = """
update ingestd.schedule set paused_at = case when $5 then paused_at else now() end, paused_by = $2, paused_until = $3, pause_reason = $4
where name = $1"""
RESUME = """
update ingestd.schedule set paused_at = null, paused_by = null, paused_until = null, pause_reason = null where name = $1"""
# A new turn, as for a start by hand. Rows of slots to come without a job tell of a time that was none; several in a row stay,
# because they may have begun before now.
GO_BACK = """
with forgotten as (
    delete from ingestd.slot where schedule = $1 and due_at > now() and coalesce(first_due_at, due_at) > now() and job_id is null
)
update ingestd.schedule
set accounted_to = now(), since = least(since, now()), next_due_at = case when enabled then $2::timestamptz end, turn = turn + 1
where name = $1"""
SKIP = "update ingestd.schedule set skip_at = $2, skip_by = $3, skip_reason = $4 where name = $1"


async def hold_one(conn: asyncpg.Connection, name: str) -> asyncpg.Record | None:
    """One schedule in service, held until the transaction ends, with the name of its queue and the database's clock."""
    row: asyncpg.Record | None = await conn.fetchrow(HOLD_ONE, name)
    return row


async def open_job(conn: asyncpg.Connection, name: str) -> int | None:
    """The schedule's last job, if it is still open; call it in the transaction that holds the schedule."""
    job_id: int | None = await conn.fetchval(FIND_OPEN_JOB, name)
    return job_id


async def busy_run(conn: asyncpg.Connection, name: str) -> int | None:
    """The open run of the schedule's workflow, if there may be only one of it; whoever started it."""
    run: int | None = await conn.fetchval(FIND_BUSY_RUN, name)
    return run


async def moment(conn: asyncpg.Connection) -> datetime:
    """A time that no other slot of a schedule has; call it in the transaction that holds the schedule."""
    found: datetime = await conn.fetchval(MOMENT)
    return found


async def triggered(
    conn: asyncpg.Connection, name: str, job_id: int, due_at: datetime, reason: str, triggered_by: str, triggers: Sequence[datetime]
) -> None:
    """Record a job that was started by hand as a slot of its own, and as the schedule's last job.

    Args:
        due_at: from `moment`.
        triggers: when the schedule was started by hand lately, this time included.
    """
    await conn.execute(NEED_PARTITION, due_at)
    await conn.execute(TRIGGERED, name, job_id, due_at, reason, triggered_by, list(triggers))


async def pause(conn: asyncpg.Connection, name: str, by: str, until: datetime | None, reason: str | None, *, again: bool) -> None:
    """Let slots be skipped from now on.

    Args:
        until: slots due before; None: until it is resumed.
        again: it is paused already, and goes on being so since when it has been.
    """
    await conn.execute(PAUSE, name, by, until, reason, again)


async def resume(conn: asyncpg.Connection, name: str) -> None:
    """Let slots fire again."""
    await conn.execute(RESUME, name)


async def go_back(conn: asyncpg.Connection, name: str, next_due_at: datetime | None) -> None:
    """Let a schedule begin anew at this moment that is accounted for beyond it.

    Args:
        next_due_at: its first slot behind this moment.
    """
    await conn.execute(GO_BACK, name, next_due_at)
    await conn.execute(TELL_CHANGED)


async def skip(conn: asyncpg.Connection, name: str, due_at: datetime | None, by: str | None = None, reason: str | None = None) -> None:
    """Pass over the one slot that is due then; None: over none."""
    await conn.execute(SKIP, name, due_at, by, reason)
