"""Between the queue and history by hand: cancel and skip what waits, bring back what ended."""

from __future__ import annotations

from datetime import datetime

import asyncpg

from ingestd.jobs.model import PARKED_KEY, State

_COLUMNS = """id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at, created_at, store, key, key_strict,
    unique_key, unique_until, args, attempts, timeout, hard_timeout, backoff, tags, notes, metadata, correlation_id, parent_id,
    triggered_by, workflow_run, step"""

# Only a job that nobody holds: whoever runs one is asked to cancel it instead.
END_WAITING = f"""
with gone as (
    delete from ingestd.job where id = $1 and claim is null returning *
), steps as (
    update ingestd.workflow_step s set state = $2, reason = $3, finished_at = now()
    from gone g where g.workflow_run is not null and s.run = g.workflow_run and s.step = g.step
), stats as (
    insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
    select date_trunc('minute', now()), kind, queue_id, $2, 0, 1, 0 from gone
)
insert into ingestd.history (keep, state, reason, duration_ms, {_COLUMNS}) select 'ok', $2, $3, 0, {_COLUMNS} from gone
returning id"""

# The id stays: links, parents and logs go on meaning the same job. Its budget of attempts grows by one.
REVIVE = f"""
with gone as (
    delete from ingestd.history where id = $1 and state in ('failed', 'cancelled') returning *
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
           case when key is null then 0 else {PARKED_KEY} end
    from gone returning id, queue_id, key, workflow_run, step
), steps as (
    update ingestd.workflow_step s set state = 'open', reason = null, result = null, partial = false, finished_at = null
    from back b where b.workflow_run is not null and s.run = b.workflow_run and s.step = b.step
), runs as (
    update ingestd.workflow_run r set state = 'running', finished_at = null from back b where r.id = b.workflow_run
), holds as (
    delete from ingestd.key_hold k using back b where k.key = b.key and k.job_id = b.id
), told as (
    select pg_notify('ingestd_job', queue_id::text) from back
)
select back.id from back left join told on true"""

FIND = """
select h.id, h.state from ingestd.history h where h.id = $1
union all
select id, case when claim is not null then 'running' else 'waiting' end from ingestd.job where id = $1
limit 1"""
RELEASE_KEY = "delete from ingestd.key_hold where job_id = $1 returning key"
HOLDS = "select key, job_id, since from ingestd.key_hold order by since"


async def end_waiting(conn: asyncpg.Connection, job_id: int, state: State, reason: str) -> bool:
    """Move a job that nobody holds to history as cancelled or skipped; False if it is held or gone."""
    return await conn.fetchval(END_WAITING, job_id, str(state), reason) is not None


async def revive(conn: asyncpg.Connection, job_id: int, run_at: datetime | None = None) -> bool:
    """Bring a failed or cancelled job back into the queue under its own id; False if there is none such.

    Args:
        run_at: not before; None: now.
    """
    return await conn.fetchval(REVIVE, job_id, run_at) is not None


async def find_state(conn: asyncpg.Connection, job_id: int) -> str | None:
    """`waiting`, `running`, a final state, or None if there is no such job."""
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
