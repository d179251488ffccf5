"""Workflow runs and their steps.

Whoever changes several rows of a run takes them in this order: the workflow's name, the run, its steps, their jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from ingestd.jobs.model import PARKED_CHILDREN, PARKED_DEPENDENCY, PARKED_KEY, Slot
from ingestd.postgres.codecs import dump_json

# Held to the end of the transaction: two starts at once, or a start and a retry, see each other.
LOCK_WORKFLOW = "select pg_advisory_xact_lock(hashtextextended('ingestd:workflow:' || $1::text, 0))"
NEW_RUN = """
insert into ingestd.workflow_run (workflow, definition, overlap, state, triggered_by, correlation_id, job_id)
values ($1, $2, $3, $4, $5, $6, $7) returning id"""
NEW_STEPS = """
insert into ingestd.workflow_step (run, step, position, after, on_failure, require, compensates, undo, args, job_id, state, reason,
                                   finished_at)
select $1, s.step, s.position, array(select jsonb_array_elements_text(s.after::jsonb)), s.on_failure, s.require, s.compensates,
       s.undo::jsonb, s.args::jsonb, s.job_id, s.state, s.reason, case when s.state = 'failed' then now() end
from unnest($2::text[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[],
            $11::text[], $12::text[])
     as s(step, position, after, on_failure, require, compensates, undo, args, job_id, state, reason)"""
OPEN_RUN = """
select id, state from ingestd.workflow_run
where workflow = $1 and state in ('waiting', 'running', 'compensating') and id <> $2 order by id limit 1"""
LOCK_RUN = """
select id, workflow, state, overlap, job_id, correlation_id from ingestd.workflow_run where id = $1 for update"""
NEXT_WAITING = """
select min(id) filter (where not busy) from (
    select id, exists (select from ingestd.workflow_run o where o.workflow = $1 and o.state in ('running', 'compensating')) as busy
    from ingestd.workflow_run where workflow = $1 and state = 'waiting') waiting"""
FIND_RUN = "select id, workflow, state from ingestd.workflow_run where id = $1"
SET_STATE = """
update ingestd.workflow_run
set state = $2, finished_at = case when $2 in ('waiting', 'running', 'compensating') then null else now() end where id = $1"""

STEPS = f"""
select s.step, s.position, s.after, s.on_failure, s.require, s.compensates, s.undo, s.args, s.job_id, s.state, s.partial,
       coalesce(s.state = 'open' and j.claim is null and j.parked & {PARKED_CHILDREN} = 0, false) as withdrawable
from ingestd.workflow_step s left join ingestd.job j on j.id = s.job_id and s.state = 'open'
where s.run = $1 order by s.position"""
RESULTS = "select step, result from ingestd.workflow_step where run = $1 and step = any ($2::text[]) and state = 'succeeded'"
# What a step's job may read: of those it waits for, and of the one it takes back.
PARENT_RESULTS = """
select p.step, p.result from ingestd.workflow_step s join ingestd.workflow_step p
    on p.run = s.run and (p.step = any (s.after) or p.step = s.compensates)
where s.run = $1 and s.step = $2 and p.compensates is null and p.state = 'succeeded' order by p.position"""
# Arguments a step's job was run with, for its compensation.
SLOT = "select metadata from ingestd.job where id = $1 and metadata ? 'schedule'"
ARGUMENTS = "select id, args from ingestd.history where id = any ($1::bigint[])"

# Runs with something to decide. A run whose steps are all waiting for others, or running, is not among them. Lateral, so that it
# is looked up run by run: what has been run in the past must not be read again and again.
DUE = f"""
select r.id, r.workflow, r.state
from ingestd.workflow_run r
cross join lateral (
    select count(*) filter (where s.state in ('blocked', 'open')) = 0 as over,
           coalesce(bool_or(s.state = 'failed' and s.on_failure = 'compensate' and s.compensates is null), false) as doomed,
           coalesce(bool_or(s.state = 'blocked' and not exists (
               select from ingestd.workflow_step p
               where p.run = s.run and p.step = any (s.after) and p.state in ('blocked', 'open') offset 0)), false) as ready
    from ingestd.workflow_step s where s.run = r.id and r.state <> 'waiting'
) steps
where r.state in ('waiting', 'running', 'compensating') and r.id > $1
  and case r.state
    when 'waiting' then not exists (
        select from ingestd.workflow_run o where o.workflow = r.workflow
          and (o.state in ('running', 'compensating') or (o.state = 'waiting' and o.id < r.id)) offset 0)
    when 'running' then steps.over or steps.ready or steps.doomed
    else steps.over or steps.ready or exists (
        select from ingestd.workflow_step s left join ingestd.job j on j.id = s.job_id
        where s.run = r.id and s.compensates is null and s.on_failure <> 'run'
          and (s.state = 'blocked' or s.state = 'open' and j.claim is null and j.parked & {PARKED_CHILDREN} = 0) offset 0)
    end
order by r.id limit 100"""

RELEASE = f"""
with wanted as (
    select * from unnest($2::text[], $3::text[]) as w(step, args)
), held as materialized (
    select s.step, s.job_id, w.args from ingestd.workflow_step s join wanted w on w.step = s.step
    where s.run = $1 and s.state = 'blocked' order by s.position for update of s
), opened as (
    update ingestd.workflow_step s set state = 'open' from held h where s.run = $1 and s.step = h.step
), freed as (
    update ingestd.job j
    set parked = j.parked & ~{PARKED_DEPENDENCY}::smallint, run_at = greatest(j.run_at, now()), args = coalesce(h.args::jsonb, j.args)
    from held h where j.id = h.job_id returning j.id, j.queue_id
)
select h.step, f.queue_id from held h left join freed f on f.id = h.job_id"""

# For steps whose job is gone already, so that one lost row never stalls its run.
CLOSE_STEPS = """
update ingestd.workflow_step set state = $3, reason = $4, finished_at = now()
where run = $1 and step = any ($2::text[]) and state in ('blocked', 'open')"""
LOST_STEPS = """
update ingestd.workflow_step s set state = 'failed', reason = 'its job is gone', finished_at = now()
from ingestd.workflow_run r
where r.id = s.run and r.state in ('waiting', 'running', 'compensating') and s.state in ('open', 'blocked')
  and not exists (select from ingestd.job j where j.id = s.job_id)
returning s.run"""

# The ids stay: links and logs go on meaning the same jobs. Each budget of attempts grows by one where it is spent.
_COLUMNS = """id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at, created_at, store, key, key_strict,
    unique_until, args, attempts, timeout, hard_timeout, backoff, tags, notes, metadata, correlation_id, parent_id, triggered_by,
    workflow_run, step"""
REOPEN = f"""
with gone as (
    delete from ingestd.history where id = any ($1::bigint[]) returning *
), back as (
    insert into ingestd.job ({_COLUMNS}, parked)
    select {
    _COLUMNS.replace("max_attempts", "greatest(max_attempts, attempt + 1)", 1)
    .replace("run_at", "now()", 1)
    .replace("due_at", "now()", 1)
    .replace("crashes", "0", 1)
    .replace("triggered_by", "'retry'", 1)
},
           {PARKED_DEPENDENCY} | case when key is null then 0 else {PARKED_KEY} end
    from gone returning id
)
update ingestd.workflow_step s
set state = 'blocked', partial = false, result = null, reason = null, finished_at = null
from back b where s.job_id = b.id
returning s.step"""
FORGET_COMPENSATIONS = "delete from ingestd.workflow_step where run = $1 and compensates is not null"

NOT_UNDONE = """
select r.id, r.workflow, r.finished_at, array_agg(s.compensates order by s.position) as steps
from ingestd.workflow_step s join ingestd.workflow_run r on r.id = s.run
where s.compensates is not null and s.state in ('failed', 'cancelled', 'skipped') and r.finished_at > now() - interval '30 days'
group by r.id order by r.id desc limit 20"""


@dataclass(frozen=True, slots=True)
class NewStep:
    """A row of a run to be inserted.

    Args:
        undo: the job that takes it back: kind, args, queue, priority.
        args: its job's arguments, where they refer to results.
        job_id: None where there is none, and then it has failed already.
    """

    name: str
    position: int
    after: Sequence[str]
    on_failure: str
    require: str
    job_id: int | None
    state: str
    compensates: str | None = None
    undo: Mapping[str, Any] | None = None
    args: Mapping[str, Any] | None = None
    reason: str | None = None


async def lock_workflow(conn: asyncpg.Connection, workflow: str) -> None:
    """Hold a workflow's name to the end of the transaction."""
    await conn.execute(LOCK_WORKFLOW, workflow)


async def new_run(
    conn: asyncpg.Connection,
    workflow: str,
    definition: Mapping[str, Any],
    overlap: str,
    state: str,
    triggered_by: str,
    correlation_id: str | None,
    job_id: int | None,
) -> int:
    """Insert a run; returns its id."""
    run: int = await conn.fetchval(NEW_RUN, workflow, dict(definition), overlap, state, triggered_by, correlation_id, job_id)
    return run


async def new_steps(conn: asyncpg.Connection, run: int, steps: Sequence[NewStep]) -> None:
    """Insert steps of a run."""
    await conn.execute(
        NEW_STEPS,
        run,
        [s.name for s in steps],
        [s.position for s in steps],
        [dump_json(list(s.after)) for s in steps],
        [s.on_failure for s in steps],
        [s.require for s in steps],
        [s.compensates for s in steps],
        [None if s.undo is None else dump_json(s.undo) for s in steps],
        [None if s.args is None else dump_json(s.args) for s in steps],
        [s.job_id for s in steps],
        [s.state for s in steps],
        [s.reason for s in steps],
    )


async def open_run(conn: asyncpg.Connection, workflow: str, besides: int = 0) -> asyncpg.Record | None:
    """The oldest run of a workflow that is not final: `id, state`.

    Args:
        besides: a run that does not count.
    """
    return await conn.fetchrow(OPEN_RUN, workflow, besides)


async def lock_run(conn: asyncpg.Connection, run: int) -> asyncpg.Record | None:
    """Hold a run to the end of the transaction, or None if there is none such."""
    return await conn.fetchrow(LOCK_RUN, run)


async def find_run(conn: asyncpg.Connection, run: int) -> asyncpg.Record | None:
    """A run's workflow and state, not held."""
    return await conn.fetchrow(FIND_RUN, run)


async def next_waiting(conn: asyncpg.Connection, workflow: str) -> int | None:
    """The waiting run of a workflow whose turn it is; None while another one runs."""
    run: int | None = await conn.fetchval(NEXT_WAITING, workflow)
    return run


async def set_state(conn: asyncpg.Connection, run: int, state: str) -> None:
    """Move a run into a state; a final one ends it."""
    await conn.execute(SET_STATE, run, state)


async def due_runs(conn: asyncpg.Connection, after: int = 0) -> list[asyncpg.Record]:
    """Some runs that have something to decide, by id.

    Args:
        after: only ids above.
    """
    rows: list[asyncpg.Record] = await conn.fetch(DUE, after)
    return rows


async def steps_of(conn: asyncpg.Connection, run: int) -> list[asyncpg.Record]:
    """All steps of a run, parents first, without their results."""
    rows: list[asyncpg.Record] = await conn.fetch(STEPS, run)
    return rows


async def results(conn: asyncpg.Connection, run: int, steps: Sequence[str]) -> dict[str, Any]:
    """The results of those of these steps that have succeeded."""
    return {row["step"]: row["result"] for row in await conn.fetch(RESULTS, run, list(steps))}


async def parent_results(conn: asyncpg.Connection, run: int, step: str) -> dict[str, Any]:
    """The results of the steps that this one waits for, or takes back; of those that have succeeded."""
    return {row["step"]: row["result"] for row in await conn.fetch(PARENT_RESULTS, run, step)}


async def slot(conn: asyncpg.Connection, job_id: int | None) -> Slot | None:
    """The slot of the job that waits for a run, if a schedule has started it."""
    metadata = await conn.fetchval(SLOT, job_id)
    return None if metadata is None else Slot.read(metadata)


async def arguments(conn: asyncpg.Connection, job_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The arguments of finished jobs."""
    return {row["id"]: row["args"] for row in await conn.fetch(ARGUMENTS, list(job_ids))}


async def release(conn: asyncpg.Connection, run: int, steps: Mapping[str, Mapping[str, Any] | None]) -> list[asyncpg.Record]:
    """Let the jobs of blocked steps run.

    Args:
        steps: name -> the arguments their references make; None: as they are.

    Returns:
        `step, queue_id`; no queue where the job is gone.
    """
    args = [None if value is None else dump_json(value) for value in steps.values()]
    rows: list[asyncpg.Record] = await conn.fetch(RELEASE, run, list(steps), args)
    return rows


async def close_steps(conn: asyncpg.Connection, run: int, steps: Sequence[str], state: str, reason: str) -> None:
    """End steps that their jobs did not end themselves."""
    await conn.execute(CLOSE_STEPS, run, list(steps), state, reason)


async def close_lost(conn: asyncpg.Connection) -> list[int]:
    """Fail the open steps whose job is gone, in every run; returns the runs."""
    return [row["run"] for row in await conn.fetch(LOST_STEPS)]


async def reopen(conn: asyncpg.Connection, job_ids: Sequence[int]) -> list[str]:
    """Bring finished steps and their jobs back, blocked; returns the steps whose job was still kept."""
    return [row["step"] for row in await conn.fetch(REOPEN, list(job_ids))]


async def forget_compensations(conn: asyncpg.Connection, run: int) -> None:
    """A run that starts over has taken nothing back; what its compensations did stays in history."""
    await conn.execute(FORGET_COMPENSATIONS, run)


async def not_undone(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Runs that ended lately without everything taken back that was to be: `id, workflow, finished_at, steps`."""
    rows: list[asyncpg.Record] = await conn.fetch(NOT_UNDONE)
    return rows
