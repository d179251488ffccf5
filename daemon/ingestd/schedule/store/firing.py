"""Slots that have come due: read, fire, put off. All of it by the database's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from ingestd.jobs.model import PARKED_KEY
from ingestd.schedule.slots import Plan

NOW = "select now()"

# The newest first: slots of this moment never wait behind the backlog of a schedule that was down for a month.
DUE = """
select name, rule, timezone, starts_at, ends_at, catch_up, max_catch_up, start_within, jitter, after, accounted_to, turn, now() as now
from ingestd.schedule
where next_due_at <= now() and removed_at is null and enabled and ($2::text[] is null or name = any ($2))
order by next_due_at desc limit $1"""

# Whether a schedule's last job is still on its way; a workflow's is until its run is over.
OPEN_JOB = """(exists (select from ingestd.job j where j.id = last_job_id)
    or exists (select from ingestd.workflow_run r where r.job_id = last_job_id and r.state in ('waiting', 'running', 'compensating')))"""
# The open run of a workflow of which there may be only one, whoever started it.
BUSY_RUN = """(select min(r.id) from ingestd.workflow_run r where r.workflow = w.args ->> 'workflow' and r.overlap = 'skip'
    and r.state in ('waiting', 'running', 'compensating'))"""

# Why a person's word keeps a slot from running, in words.
PAUSED = "'paused' || coalesce(' by ' || s.paused_by, '') || coalesce(': ' || s.pause_reason, '')"
SKIPPED_ONCE = "'skipped once' || coalesce(' by ' || s.skip_by, '') || coalesce(': ' || s.skip_reason, '')"

PAUSED_NOW = f"case when s.paused_at is not null and (s.paused_until is null or s.paused_until > now()) then {PAUSED} end"

# What a schedule's job is made of, taken while the schedule is held.
HELD = """s.name, s.overlap, s.last_job_id, s.kind, s.args, s.queue_id, s.rank, s.max_attempts, s.tags, s.key,
           s.start_within, s.finish_within, s.target_runtime"""

# Why a slot that nobody keeps from running cannot: asked about rows that have HELD's columns, `state`, `in_line` and `place`.
IN_THE_WAY = f"""
        when state not in ('fired', 'late') then null
        when overlap = 'queue' or in_line then null
        when overlap = 'skip' and {OPEN_JOB} then format('job %s of this schedule was still open', last_job_id)
        when kind = 'workflow' and {BUSY_RUN} is not null
            then format('run %s of workflow %s was still open', {BUSY_RUN}, w.args ->> 'workflow')
        when overlap = 'allow' then null
        when place > 1 then 'the job of an earlier slot had only just been enqueued'"""

# What a slot with a job is watched by, in the order of WATCHED_VALUES.
WATCHED = "job_id, fired_at, start_by, finish_by, target_runtime, check_at"
WATCHED_VALUES = """case when runs then nextval(pg_get_serial_sequence('ingestd.job', 'id')) end, case when runs then now() end,
           case when runs then due_at + start_within end, case when runs then due_at + finish_within end,
           case when runs then target_runtime end, case when runs then now() + interval '1 second' end"""

# The jobs of `slots`, made as `judged` says, and the wake-up of those who can run them.
JOBS = f"""jobs as (
    insert into ingestd.job (id, kind, queue_id, rank, parked, max_attempts, run_at, due_at, args, tags, key, triggered_by,
                             correlation_id, metadata)
    select s.job_id, j.kind, j.queue_id, j.rank, case when j.job_key is null then 0 else {PARKED_KEY} end, j.max_attempts,
           greatest(s.due_at + j.delay, now()), s.due_at, j.args, j.tags, j.job_key, s.triggered_by, gen_random_uuid()::text,
           jsonb_build_object('schedule', s.schedule, 'due_at', s.due_at, 'catch_up', s.triggered_by = 'catch_up')
    from slots s join judged j on j.schedule = s.schedule and j.due_at = s.due_at
    where s.job_id is not null order by s.job_id
    returning queue_id, parked
), told as (
    select pg_notify('ingestd_job', queue_id::text) from jobs where parked = 0 group by queue_id"""

# One statement, so that a slot's row, its job and the schedule's next moment are there together or not at all.
# Many nodes may run it for the same slots: a schedule is held by one at a time (the others pass it by), a plan made on an
# older turn finds nothing to hold, and the unique key of slot stands behind both.
# A slot that was missed while its schedule was paused is not missed by anybody.
FIRE = f"""
with plan as (
    select * from unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::timestamptz[]) as p(name, turn, accounted_to, next_due_at)
), held as materialized (
    select {HELD}, s.since, s.paused_at, s.paused_until, s.skip_at, {PAUSED} as paused, {SKIPPED_ONCE} as skipped_once,
           p.accounted_to, p.next_due_at
    from plan p join ingestd.schedule s on s.name = p.name
    where s.turn = p.turn and s.next_due_at <= now() and p.accounted_to <= now() and s.removed_at is null and s.enabled
    order by s.name for update of s skip locked
), wanted as (
    select w.*, h.*, case
        when h.paused_at <= case when w.state = 'missed' then w.due_at else now() end and w.due_at < coalesce(h.paused_until, 'infinity')
            then h.paused
        when w.due_at = h.skip_at then h.skipped_once
        end as set_aside
    from unnest($5::text[], $6::timestamptz[], $7::text[], $8::text[], $9::text[], $10::timestamptz[], $11::integer[], $12::boolean[],
                $13::interval[])
         as w(schedule, due_at, state, reason, triggered_by, first_due_at, slots, in_line, delay)
    join held h on h.name = w.schedule
    where w.due_at <= now() and w.due_at > h.since
), judged as materialized (
    select w.*, coalesce(w.key, case when overlap = 'queue' or (overlap = 'skip' and in_line) then 'schedule:' || w.name end) as job_key,
        case when set_aside is not null then set_aside {IN_THE_WAY}
        end as skipped_because
    from (select a.*, row_number() over (partition by schedule, set_aside is null and state in ('fired', 'late') order by due_at) as place
          from wanted a) w
), slots as (
    insert into ingestd.slot (schedule, due_at, state, reason, triggered_by, first_due_at, slots, {WATCHED})
    select schedule, due_at, case when skipped_because is null then state else 'skipped' end, coalesce(skipped_because, reason),
           triggered_by, first_due_at, slots, {WATCHED_VALUES}
    from (select j.*, j.state in ('fired', 'late') and j.skipped_because is null as runs from judged j) decided
    order by due_at
    on conflict (schedule, due_at) do nothing
    returning schedule, due_at, state, reason, job_id, triggered_by, first_due_at, slots
), {JOBS}
), moved as (
    update ingestd.schedule s
    set accounted_to = h.accounted_to, next_due_at = h.next_due_at, turn = s.turn + 1, problem = null,
        last_job_id = coalesce((select max(f.job_id) from slots f where f.schedule = s.name), s.last_job_id),
        skip_at = case when h.past_skip then null else s.skip_at end, skip_by = case when h.past_skip then null else s.skip_by end,
        skip_reason = case when h.past_skip then null else s.skip_reason end,
        paused_at = case when h.past_pause then null else s.paused_at end,
        paused_by = case when h.past_pause then null else s.paused_by end,
        paused_until = case when h.past_pause then null else s.paused_until end,
        pause_reason = case when h.past_pause then null else s.pause_reason end
    from (select *, skip_at <= accounted_to as past_skip, paused_until <= accounted_to as past_pause from held) h where s.name = h.name
    returning s.name
)
select s.*, (select count(*) from told) as told from slots s order by s.due_at, s.schedule"""

PUT_OFF = """
update ingestd.schedule set problem = $3, next_due_at = now() + $4::interval, turn = turn + 1
where name = $1 and turn = $2 and removed_at is null and enabled"""

# Seconds to the next due moment of all schedules, below zero if one is over.
NEXT_IN = """
select extract(epoch from min(next_due_at) - clock_timestamp())::float8 from ingestd.schedule
where next_due_at is not null and removed_at is null and enabled"""

MAKE_PARTITION = "select ingestd.make_slot_partition($1)"
MAKE_PARTITIONS = "select ingestd.make_partitions('ingestd.slot', 'month', $1)"


@dataclass(frozen=True, slots=True)
class RecordedSlot:
    """A slot as it was recorded just now."""

    schedule: str
    due_at: datetime
    state: str
    reason: str | None
    job_id: int | None
    triggered_by: str
    first_due_at: datetime | None
    slots: int


async def now(conn: asyncpg.Connection) -> datetime:
    """The database's clock."""
    moment: datetime = await conn.fetchval(NOW)
    return moment


async def due(conn: asyncpg.Connection, limit: int, names: Sequence[str] | None = None) -> list[asyncpg.Record]:
    """Schedules with a slot that is due, of these names or of all; each row carries the database's clock as `now`."""
    rows: list[asyncpg.Record] = await conn.fetch(DUE, limit, None if names is None else list(names))
    return rows


async def fire(conn: asyncpg.Connection, plans: Sequence[tuple[str, int, Plan]]) -> list[RecordedSlot]:
    """Record planned slots, enqueue the jobs of those that run, and move their schedules on.

    Args:
        plans: name and turn of the schedule that the plan was made for, and the plan.

    Returns:
        What was recorded, in the order of time; nothing for schedules that belonged to another node just then.
    """
    slots = [(name, slot) for name, _, plan in plans for slot in plan.slots]
    rows = await conn.fetch(
        FIRE,
        [name for name, _, _ in plans],
        [turn for _, turn, _ in plans],
        [plan.accounted_to for _, _, plan in plans],
        [plan.next_due_at for _, _, plan in plans],
        [name for name, _ in slots],
        [slot.due_at for _, slot in slots],
        [slot.state for _, slot in slots],
        [slot.reason for _, slot in slots],
        [slot.triggered_by for _, slot in slots],
        [slot.first_due_at for _, slot in slots],
        [slot.slots for _, slot in slots],
        [slot.in_line for _, slot in slots],
        [slot.delay for _, slot in slots],
    )
    return [to_recorded(row) for row in rows]


def to_recorded(row: asyncpg.Record) -> RecordedSlot:
    """A row of a statement that records slots."""
    return RecordedSlot(**{key: value for key, value in row.items() if key != "told"})


async def put_off(conn: asyncpg.Connection, name: str, turn: int, problem: str, wait: timedelta) -> None:
    """Look at a schedule again later whose rule cannot be computed; its slots stay unaccounted for until then."""
    await conn.execute(PUT_OFF, name, turn, problem, wait)


async def next_in(conn: asyncpg.Connection) -> float | None:
    """Seconds until the next slot of any schedule is due, 0 or less if one is; None if none ever will be."""
    seconds: float | None = await conn.fetchval(NEXT_IN)
    return seconds


async def make_partition(conn: asyncpg.Connection, at: datetime) -> bool:
    """Make the partition of slots due at this time; False if it was there."""
    made: bool = await conn.fetchval(MAKE_PARTITION, at)
    return made


async def make_partitions(conn: asyncpg.Connection, ahead: int = 14) -> int:
    """Make the partitions of the months to come; returns how many were missing."""
    made: int = await conn.fetchval(MAKE_PARTITIONS, ahead)
    return made
