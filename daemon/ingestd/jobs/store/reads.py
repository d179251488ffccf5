"""Jobs as people and programs look at them: open ones and history as one list."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from ingestd.settings import priority_name

STATE = """case when j.claim is not null then 'running' when j.parked <> 0 then 'blocked'
    when j.run_at > now() then case when j.attempt > 0 then 'retrying' else 'scheduled' end else 'available' end"""

_OPEN = f"""
select j.id, j.kind, q.name as queue, {STATE} as state, false as partial, j.rank, j.args, j.attempt, j.max_attempts, j.crashes,
       j.run_at, j.created_at, coalesce(j.claimed_at) as started_at, null::timestamptz as finished_at,
       case when j.claimed_at is not null then (extract(epoch from clock_timestamp() - j.claimed_at) * 1000)::bigint end as duration_ms,
       n.name as node, j.correlation_id, j.triggered_by, p.progress -> j.id::text as progress, null::jsonb as result,
       j.attempts -> -1 -> 'error' as error, j.tags, j.notes, j.metadata, j.attempts, j.parent_id, j.workflow_run, j.step,
       null::jsonb as counts,
       case when j.parked & 4 <> 0 then 'waits for its child jobs' when j.parked & 1 <> 0 then 'waits for earlier steps'
            when j.parked & 2 <> 0 and exists (select from ingestd.key_hold h where h.key = j.key)
                 then (select format('held: job %s before it failed; retry or skip that one', h.job_id) from ingestd.key_hold h
                       where h.key = j.key)
            when j.parked & 2 <> 0 then 'waits for its turn of ' || j.key
            when j.claim is null and q.paused_at is not null then 'queue is paused'
            when j.claim is null and not exists (select from ingestd.kind k where k.name = j.kind) then 'no node knows this kind'
       end as reason
from ingestd.job j join ingestd.queue q on q.id = j.queue_id
left join ingestd.node n on n.id = j.node left join ingestd.node_progress p on p.node = j.node
where ($1::text is null or {STATE} = $1) and ($2::text is null or j.kind = $2) and ($3::text is null or q.name = $3)
  and ($4::text is null or $4 = any (j.tags)) and ($5::text is null or j.triggered_by = $5)
  and ($6::timestamptz is null or j.created_at >= $6) and ($7::timestamptz is null or j.created_at < $7)
  and ($8::bigint is null or j.id < $8) and ($10::bigint is null or j.id = $10)
  and ($11::bigint is null or j.workflow_run = $11)"""

_DONE = """
select h.id, h.kind, q.name, h.state, h.partial, h.rank, h.args, h.attempt, h.max_attempts, h.crashes, h.run_at, h.created_at,
       h.started_at, h.finished_at, h.duration_ms, n.name, h.correlation_id, h.triggered_by, null::jsonb, h.result, h.error, h.tags,
       h.notes, h.metadata, h.attempts, h.parent_id, h.workflow_run, h.step, h.counts, h.reason
from ingestd.history h join ingestd.queue q on q.id = h.queue_id left join ingestd.node n on n.id = h.node
where ($1::text is null or h.state = $1 or ($1 = 'partial' and h.partial)) and ($2::text is null or h.kind = $2)
  and ($3::text is null or q.name = $3) and ($4::text is null or $4 = any (h.tags))
  and ($5::text is null or h.triggered_by = $5) and ($6::timestamptz is null or h.created_at >= $6)
  and ($7::timestamptz is null or h.created_at < $7) and ($8::bigint is null or h.id < $8) and ($10::bigint is null or h.id = $10)
  and ($11::bigint is null or h.workflow_run = $11)"""

# Each arm is limited by itself, so that a page costs a page whatever the size of history.
LIST = f"""
select * from (({_OPEN} order by j.id desc limit $9) union all ({_DONE} order by h.id desc limit $9)) both_lists
order by id desc limit $9"""

COUNTS = f"""
select q.name as queue, {STATE} as state, count(*)::bigint as n, min(j.run_at) filter (where j.claim is null and j.parked = 0) as oldest
from ingestd.job j join ingestd.queue q on q.id = j.queue_id group by 1, 2 order by 1, 2"""

OLDEST_AGES = """
select q.name, extract(epoch from now() - min(j.run_at))::float8 as age from ingestd.job j join ingestd.queue q on q.id = j.queue_id
where j.claim is null and j.parked = 0 and j.run_at <= now() group by 1"""

WORKFLOW_RUNS = """
select r.id, r.workflow, r.state, r.triggered_by, r.created_at, r.finished_at, r.correlation_id
from ingestd.workflow_run r where ($1::text is null or r.workflow = $1) and ($2::bigint is null or r.id = $2)
order by r.id desc limit $3"""
WORKFLOW_STEPS = """
select run, step, after, state, partial, job_id, reason, result, finished_at from ingestd.workflow_step
where run = any ($1::bigint[]) order by run, position"""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; None means any.

    Args:
        state: a state, or `partial`.
        since: created at or after.
        until: created before.
        before_id: only ids below, for the next page.
    """

    state: str | None = None
    kind: str | None = None
    queue: str | None = None
    tag: str | None = None
    triggered_by: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before_id: int | None = None
    job_id: int | None = None
    workflow_run: int | None = None


async def list_jobs(conn: asyncpg.Connection, which: JobFilter | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Jobs, newest first, as the API shows them (ids still numbers, times still datetimes)."""
    f = which or JobFilter()
    rows = await conn.fetch(
        LIST,
        f.state,
        f.kind,
        f.queue,
        f.tag,
        f.triggered_by,
        f.since,
        f.until,
        f.before_id,
        limit,
        f.job_id,
        f.workflow_run,
    )
    return [_shown(row) for row in rows]


async def show_job(conn: asyncpg.Connection, job_id: int) -> dict[str, Any] | None:
    """One job, open or finished, or None."""
    found = await list_jobs(conn, JobFilter(job_id=job_id), 1)
    return found[0] if found else None


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    shown = dict(row)
    shown["priority"] = priority_name(-shown.pop("rank"))
    return shown


async def counts(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Open jobs by queue and state, with the oldest due moment of those that could run."""
    rows: list[asyncpg.Record] = await conn.fetch(COUNTS)
    return rows


async def oldest_ages(conn: asyncpg.Connection) -> dict[str, float]:
    """Seconds that the oldest due job of each queue has waited."""
    return {row["name"]: row["age"] for row in await conn.fetch(OLDEST_AGES)}


async def workflow_runs(
    conn: asyncpg.Connection, workflow: str | None = None, run: int | None = None, limit: int = 20
) -> list[dict[str, Any]]:
    """Workflow runs, newest first, each with its steps in order."""
    runs = [dict(row) | {"steps": []} for row in await conn.fetch(WORKFLOW_RUNS, workflow, run, limit)]
    by_id = {found["id"]: found for found in runs}
    for row in await conn.fetch(WORKFLOW_STEPS, list(by_id)):
        by_id[row["run"]]["steps"].append({key: value for key, value in row.items() if key != "run"})
    return runs
