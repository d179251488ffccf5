"""Between the queue and history by hand: cancel and skip what waits, bring back what ended, run it again, delete it.

Every statement takes any number of jobs and answers with those it changed. Rows that somebody else is writing just now are
passed over (SKIP LOCKED): so two of these never wait for each other in a circle. Who means one job locks it first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from ingestd.jobs.model import PARKED_DEPENDENCY, PARKED_KEY, State
from ingestd.jobs.store import steps
from ingestd.jobs.store.where import STATE

_COLUMNS = """id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at, created_at, store, key, key_strict,
    unique_key, unique_until, args, attempts, timeout, hard_timeout, backoff, tags, notes, metadata, correlation_id, parent_id,
    triggered_by, workflow_run, step"""

# A step before its job, as the promoter has it: the other way round the two would wait for each other. Where the job runs, its ack
# goes the other way, from the job to its step, and of many at once in any order: then the job alone is held, and nobody else wants
# its step.
_STEPS_FIRST = """with first as materialized (
    select from ingestd.workflow_step s where job_id = any ($1::bigint[])
      and exists (select from ingestd.job j where j.id = s.job_id and j.claim is null) order by run, position for update
)"""
LOCK = f"""
{_STEPS_FIRST}
select case when claim is not null then 'running' else 'waiting' end from ingestd.job
where id = any ($1::bigint[]) and (select count(*) from first) >= 0 for update"""

# Only jobs that nobody holds, unless $4 takes them from whoever does: then the claim is gone, and with it the right to write. The
# claim does not go to history, where it would tell the node that its own ack had arrived. $5 and $6 are the node, and perhaps the
# claim, that has it and was asked to stop: since it was found so it may have ended, come back, and begun elsewhere.
END = f"""
{_STEPS_FIRST}, found as materialized (
    select id from ingestd.job
    where id = any ($1::bigint[]) and (claim is null or $4)
      and ($5::uuid is null or (node = $5 and cancel_asked_at is not null and ($6::uuid is null or claim = $6)))
      and (select count(*) from first) >= 0 order by id for update skip locked
), gone as (
    delete from ingestd.job where id = any (array(select id from found)) returning *
), steps as (
    update ingestd.workflow_step s set state = $2, reason = $3, finished_at = now()
    from gone g where g.workflow_run is not null and s.run = g.workflow_run and s.step = g.step
), stats as (
    insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
    select date_trunc('minute', now()), kind, queue_id, $2, 0, count(*), 0 from gone group by kind, queue_id
)
insert into ingestd.history (keep, state, reason, started_at, duration_ms, {_COLUMNS})
select case $2 when 'failed' then 'bad' else 'ok' end, $2, $3, claimed_at,
       coalesce((extract(epoch from now() - claimed_at) * 1000)::bigint, 0), {_COLUMNS}
from gone returning id"""

ASK = """
with found as materialized (
    select id from ingestd.job where id = any ($1::bigint[]) and claim is not null order by id for update skip locked
)
update ingestd.job set cancel_asked_at = now() where id = any (array(select id from found)) and claim is not null returning id"""

# The id stays: links, parents and logs go on meaning the same job. Its budget of attempts grows by one. A step whose arguments
# refer to results is blocked until the promoter has looked them up again, and one that was cancelled before its turn until that
# comes; one of a run that is or was taken back stays as it is. A run before its jobs, as whoever retries all of it has it. Where its
# workflow has one run at a time, a run that has ended waits for its turn, or is left alone, as it would be at its start.
_OPEN_RUN = "('waiting', 'running', 'compensating')"
REVIVE = f"""
with runs_first as materialized (
    select r.id, r.workflow, r.overlap, r.state in {_OPEN_RUN} as open, exists (
        select from ingestd.workflow_step c where c.run = r.id and c.compensates is not null) as taken_back
    from ingestd.workflow_run r where r.id in (
        select workflow_run from ingestd.history
        where id = any ($1::bigint[]) and workflow_run is not null and state in ('failed', 'cancelled')) order by r.id for update
), busy as materialized (
    select r.id, r.overlap from runs_first r
    where r.overlap <> 'allow' and not r.open and not r.taken_back and (
        exists (select from ingestd.workflow_run o where o.workflow = r.workflow and o.state in {_OPEN_RUN} and o.id <> r.id)
        or exists (select from runs_first o where o.workflow = r.workflow and o.id < r.id and not o.open and not o.taken_back))
), gone as (
    delete from ingestd.history h
    where id = any ($1::bigint[]) and state in ('failed', 'cancelled') and (select count(*) from runs_first) >= 0
      and finished_at <= coalesce($3, 'infinity'::timestamptz)
      and not exists (
          select from ingestd.workflow_run r join ingestd.workflow_step s on s.run = r.id and s.step = h.step
          where r.id = h.workflow_run and s.compensates is null and (r.state = 'compensating'
            or exists (select from ingestd.workflow_step c where c.run = r.id and c.compensates is not null)))
      and not exists (select from busy b where b.id = h.workflow_run and b.overlap = 'skip')
    returning *
), back as (
    insert into ingestd.job ({_COLUMNS.replace("unique_key, ", "")}, parked)
    select {
    _COLUMNS.replace("unique_key, ", "")
    .replace("max_attempts", "greatest(max_attempts, attempt + 1)", 1)
    .replace("run_at", "greatest(now(), $2)", 1)
    .replace("due_at", "greatest(now(), $2)", 1)
    .replace("triggered_by", "'retry'")
    .replace("crashes", "0", 1)
},
           case when key is null then 0 else {PARKED_KEY} end | case when workflow_run is not null and exists (
               select from ingestd.workflow_step s join ingestd.workflow_run r on r.id = s.run
               where s.run = gone.workflow_run and s.step = gone.step and (
                   s.args is not null or r.state = 'waiting' or r.id in (select id from busy) or exists (
                   select from ingestd.workflow_step p where p.run = s.run and p.step = any (s.after) and p.state in ('blocked', 'open')))
           ) then {PARKED_DEPENDENCY} else 0 end
    from gone returning id, queue_id, key, workflow_run, step, parked
), steps as (
    update ingestd.workflow_step s
    set state = case when b.parked & {PARKED_DEPENDENCY} = 0 then 'open' else 'blocked' end, reason = null, result = null, partial = false,
        finished_at = null
    from back b where b.workflow_run is not null and s.run = b.workflow_run and s.step = b.step
), runs as (
    update ingestd.workflow_run r
    set finished_at = null, state = case when f.taken_back then 'compensating' when r.id in (select id from busy) then 'waiting'
                                         else 'running' end
    from back b join runs_first f on f.id = b.workflow_run where r.id = b.workflow_run and not f.open
), holds as (
    delete from ingestd.key_hold k using back b where k.key = b.key and k.job_id = b.id
), told as (
    select pg_notify('ingestd_job', queue_id::text) from (select distinct queue_id from back) queues
)
select id, (select count(*) from told) from back"""
ONE_AT_A_TIME = """
select distinct r.workflow from ingestd.workflow_step s join ingestd.workflow_run r on r.id = s.run
where s.job_id = any ($1::bigint[]) and r.overlap <> 'allow' order by 1"""
LOCK_RUNS = """
select from ingestd.workflow_run
where id in (select run from ingestd.workflow_step where job_id = any ($1::bigint[])) order by id for update"""
BUSY_WITH = f"""
select r.id as run, r.workflow, min(o.id) as other
from ingestd.history h join ingestd.workflow_run r on r.id = h.workflow_run
join ingestd.workflow_run o on o.workflow = r.workflow and o.state in {_OPEN_RUN} and o.id <> r.id
where h.id = $1 and r.overlap = 'skip' and r.state not in {_OPEN_RUN}
  and not exists (select from ingestd.workflow_step c where c.run = r.id and c.compensates is not null) group by 1, 2"""

# A new job like the old one, which stays where it is. Its unique key is not taken over: another may hold it. Nor is its place in
# a workflow: a step ends once.
AGAIN = f"""
with made as (
    insert into ingestd.job (kind, queue_id, rank, max_attempts, run_at, due_at, store, key, key_strict, parked, args, timeout,
                             hard_timeout, backoff, tags, notes, metadata, correlation_id, parent_id, triggered_by)
    select kind, queue_id, rank, max_attempts, greatest(now(), $2), greatest(now(), $2), store, key, key_strict,
           case when key is null then 0 else {PARKED_KEY} end, args, timeout, hard_timeout, backoff, tags, notes, metadata,
           coalesce($4, correlation_id), id, $3
    from ingestd.history where id = any ($1::bigint[]) order by id
    returning id, parent_id, queue_id
), told as (
    select pg_notify('ingestd_job', queue_id::text) from (select distinct queue_id from made) queues
)
select parent_id, id, (select count(*) from told) from made"""

# A step whose job is gone counts as cancelled, or its run would wait for ever; so would jobs behind a held key.
DELETE_WAITING = f"""
{_STEPS_FIRST}, found as materialized (
    select id from ingestd.job
    where id = any ($1::bigint[]) and claim is null and (select count(*) from first) >= 0 order by id for update skip locked
), gone as (
    delete from ingestd.job where id = any (array(select id from found)) returning id, workflow_run, step
), steps as (
    update ingestd.workflow_step s set state = 'cancelled', reason = $2, finished_at = now()
    from gone g where g.workflow_run is not null and s.run = g.workflow_run and s.step = g.step
), unique_holds as (
    delete from ingestd.unique_hold u using gone g where u.job_id = g.id
)
select id from gone"""
DELETE_FINISHED = """
with gone as (
    delete from ingestd.history where id = any ($1::bigint[]) and finished_at <= coalesce($2, 'infinity'::timestamptz) returning id
), holds as (
    delete from ingestd.key_hold k using gone g where k.job_id = g.id
)
select id from gone"""

FIND = f"""
select h.id, h.state from ingestd.history h where h.id = $1
union all
select j.id, {STATE} from ingestd.job j where j.id = $1
limit 1"""
# What a node that is gone held, or one knows nothing of: nobody else can do what was asked of it.
ASKED = """
select id from ingestd.job
where node = $1 and cancel_asked_at is not null and ($2::uuid is null or claim = $2) and not id = any ($3::bigint[]) order by id"""
RELEASE_KEY = "delete from ingestd.key_hold where job_id = $1 returning key"
HOLDS = "select key, job_id, since from ingestd.key_hold order by since"


async def lock_open(conn: asyncpg.Connection, job_id: int) -> str | None:
    """Hold an open job still to the end of the transaction; `running`, `waiting`, or None if it is not open."""
    state: str | None = await conn.fetchval(LOCK, [job_id])
    return state


async def end_waiting(conn: asyncpg.Connection, job_id: int, state: State, reason: str) -> bool:
    """Move a job that nobody holds to history as cancelled or skipped; False if it is held or gone."""
    return bool(await lock_open(conn, job_id)) and bool(await end_all(conn, [job_id], state, reason))


async def end_all(conn: asyncpg.Connection, ids: Sequence[int], state: State, reason: str, *, force: bool = False) -> list[int]:
    """Move those that wait to history as cancelled, skipped or failed.

    Args:
        force: those that run as well; whoever runs them can write nothing about them any more.
    """
    return _ids(await conn.fetch(END, ids, str(state), reason, force, None, None))


async def ask_cancel(conn: asyncpg.Connection, ids: Sequence[int]) -> list[int]:
    """Ask the nodes that run them to cancel them."""
    return _ids(await conn.fetch(ASK, ids))


async def end_asked(conn: asyncpg.Connection, node: UUID, reason: str, *, claim: UUID | None = None, keep: Sequence[int] = ()) -> list[int]:
    """Cancel what somebody has asked to stop and a node holds, but does not run any more; in the queue it would begin once more.

    Args:
        claim: only what it holds by this claim.
        keep: but not these.
    """
    asked = _ids(await conn.fetch(ASKED, node, claim, keep))
    return _ids(await conn.fetch(END, asked, str(State.CANCELLED), reason, True, node, claim)) if asked else []


async def revive(conn: asyncpg.Connection, job_id: int, run_at: datetime | None = None) -> bool:
    """Bring a failed or cancelled job back into the queue under its own id; False if there is none such.

    Args:
        run_at: not before; None: now.
    """
    return bool(await revive_all(conn, [job_id], run_at))


async def revive_all(
    conn: asyncpg.Connection, ids: Sequence[int], run_at: datetime | None = None, ended_by: datetime | None = None
) -> list[int]:
    """Bring back those that failed or were cancelled.

    Args:
        ended_by: leave out those that ended later.
    """
    await _lock_workflows(conn, ids)
    return _ids(await conn.fetch(REVIVE, ids, run_at, ended_by))


async def lock_runs(conn: asyncpg.Connection, job_id: int) -> None:
    """Hold the run of a step's job, before the step and the job: whoever decides about the run has them in this order."""
    await _lock_workflows(conn, [job_id])
    await conn.execute(LOCK_RUNS, [job_id])


async def _lock_workflows(conn: asyncpg.Connection, ids: Sequence[int]) -> None:
    # The workflow's name before its runs, in a statement of its own: whoever starts one meanwhile is seen.
    for row in await conn.fetch(ONE_AT_A_TIME, ids):
        await steps.lock_workflow(conn, row["workflow"])


async def busy_with(conn: asyncpg.Connection, job_id: int) -> asyncpg.Record | None:
    """Why a step that has ended cannot go on: `run`, its `workflow`, and the `other` run beside which it must not; None: it can."""
    return await conn.fetchrow(BUSY_WITH, job_id)


async def run_again(
    conn: asyncpg.Connection, ids: Sequence[int], triggered_by: str, run_at: datetime | None = None, correlation_id: str | None = None
) -> dict[int, int]:
    """Enqueue a new job like each of these finished ones, as its child; returns the new id by the old one."""
    rows = await conn.fetch(AGAIN, ids, run_at, triggered_by, correlation_id)
    return {row["parent_id"]: row["id"] for row in rows}


async def delete_waiting(conn: asyncpg.Connection, ids: Sequence[int], reason: str) -> list[int]:
    """Delete those that wait, as if they had never been; their workflow steps count as cancelled."""
    return _ids(await conn.fetch(DELETE_WAITING, ids, reason))


async def delete_finished(conn: asyncpg.Connection, ids: Sequence[int], ended_by: datetime | None = None) -> list[int]:
    """Delete from history; jobs behind a key that one of these held go on."""
    return _ids(await conn.fetch(DELETE_FINISHED, ids, ended_by))


async def find_state(conn: asyncpg.Connection, job_id: int) -> str | None:
    """The state of a job, or None if there is no such job."""
    row = await conn.fetchrow(FIND, job_id)
    return None if row is None else row["state"]


async def release_key(conn: asyncpg.Connection, job_id: int) -> str | None:
    """Let the jobs behind a failed strict job go on; returns the key, or None if it held none."""
    key: str | None = await conn.fetchval(RELEASE_KEY, job_id)
    return key


async def key_holds(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Keys that wait for somebody to retry or skip a failed job."""
    rows: list[asyncpg.Record] = await conn.fetch(HOLDS)
    return rows


def _ids(rows: Sequence[Any]) -> list[int]:
    return [row["id"] for row in rows]
