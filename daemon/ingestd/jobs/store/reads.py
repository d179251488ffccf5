"""Jobs as people and programs look at them: open ones and history as one list."""

from __future__ import annotations

from typing import Any

import asyncpg

from ingestd.jobs.filters import GROUPS, JobFilter
from ingestd.jobs.store.waiting import waiting_reason
from ingestd.jobs.store.where import ERROR_GROUP, ERROR_TEXT, STATE, done_where, open_where
from ingestd.settings import priority_name

__all__ = ["STATE", "JobFilter"]

_OPEN = f"""
select j.id, j.kind, q.name as queue, {STATE} as state, false as partial, j.rank, j.args, j.attempt, j.max_attempts, j.crashes,
       j.run_at, j.created_at, j.claimed_at as started_at, null::timestamptz as finished_at,
       case when j.claimed_at is not null then (extract(epoch from clock_timestamp() - j.claimed_at) * 1000)::bigint end as duration_ms,
       n.name as node, coalesce(j.correlation_id, 'job-' || j.id) as correlation_id, j.triggered_by,
       p.progress -> j.id::text as progress, null::jsonb as result,
       j.attempts -> -1 -> 'error' as error, j.tags, j.notes, j.metadata, j.attempts, j.parent_id, j.workflow_run, j.step,
       null::jsonb as counts,
       case when j.claim is not null and j.cancel_asked_at is not null then 'asked to stop' end as reason
from (select * from ingestd.job j where {{where}} order by j.id desc limit {{limit}}) j join ingestd.queue q on q.id = j.queue_id
left join ingestd.node n on n.id = j.node left join ingestd.node_progress p on p.node = j.node"""

_DONE = """
select h.id, h.kind, q.name as queue, h.state, h.partial, h.rank, h.args, h.attempt, h.max_attempts, h.crashes, h.run_at, h.created_at,
       h.started_at, h.finished_at, h.duration_ms, n.name as node, coalesce(h.correlation_id, 'job-' || h.id) as correlation_id,
       h.triggered_by, null::jsonb as progress, h.result, h.error, h.tags, h.notes, h.metadata, h.attempts, h.parent_id, h.workflow_run,
       h.step, h.counts, h.reason
from (select * from ingestd.history h where {where} order by h.id desc limit {limit}) h join ingestd.queue q on q.id = h.queue_id
left join ingestd.node n on n.id = h.node"""

_MORE_OPEN = """
select j.due_at, j.key, j.key_strict, j.unique_key, j.timeout, j.hard_timeout, j.backoff, j.checkpoint, j.cancel_asked_at,
       null::jsonb as rejects, k.since as held_since, r.workflow
from ingestd.job j left join ingestd.workflow_run r on r.id = j.workflow_run left join ingestd.key_hold k on k.job_id = j.id
where j.id = $1"""
_MORE_DONE = """
select h.due_at, h.key, h.key_strict, h.unique_key, h.timeout, h.hard_timeout, h.backoff, null::jsonb as checkpoint,
       null::timestamptz as cancel_asked_at, h.rejects, k.since as held_since, r.workflow
from ingestd.history h left join ingestd.workflow_run r on r.id = h.workflow_run left join ingestd.key_hold k on k.job_id = h.id
where h.id = $1"""
MORE = f"{_MORE_OPEN} union all {_MORE_DONE} limit 1"

COUNTS = f"""
select q.name as queue, {STATE} as state, count(*)::bigint as n, min(j.run_at) filter (where j.claim is null and j.parked = 0) as oldest
from ingestd.job j join ingestd.queue q on q.id = j.queue_id group by 1, 2 order by 1, 2"""

OLDEST_AGES = """
select q.name, extract(epoch from now() - min(j.run_at))::float8 as age from ingestd.job j join ingestd.queue q on q.id = j.queue_id
where j.claim is null and j.parked = 0 and j.run_at <= now() group by 1"""

# Jobs that failed for good, by what went wrong. The newest of a group stands for it.
_DEAD = f"""
select {ERROR_GROUP} as error_group, h.kind, max(h.error ->> 'class') as error_class, max({ERROR_TEXT}) as message,
       count(*)::bigint as jobs, min(h.finished_at) as first_seen, max(h.finished_at) as last_seen, max(h.id) as sample,
       count(*) filter (where exists (select from ingestd.key_hold k where k.job_id = h.id))::bigint as holding
from ingestd.history h where h.keep = 'bad' and {{where}}
group by 1, 2 order by last_seen desc, error_group limit {{limit}}"""

WORKFLOW_RUNS = """
select r.id, r.workflow, r.state, r.triggered_by, r.created_at, r.finished_at, r.correlation_id
from ingestd.workflow_run r
where ($1::text is null or r.workflow = $1) and ($2::bigint is null or r.id = $2) and ($4::bigint is null or r.id < $4)
order by r.id desc limit $3"""
WORKFLOW_STEPS = f"""
select s.run, s.step, s.after, s.on_failure, s.require, s.compensates, s.state, s.partial, s.job_id, s.reason, s.result, s.finished_at,
       case when s.state = 'open' and j.id is not null then {STATE} end as job_state
from ingestd.workflow_step s left join ingestd.job j on j.id = s.job_id and s.state = 'open'
where s.run = any ($1::bigint[]) order by s.run, s.position"""
CHILDREN_SHOWN = 20


async def list_jobs(conn: asyncpg.Connection, which: JobFilter | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Jobs, newest first, as the API shows them (ids still numbers, times still datetimes)."""
    statement, values = list_statement(which or JobFilter(), limit)
    found = [_shown(row) for row in await conn.fetch(statement, *values)] if statement else []
    waiting = [job["id"] for job in found if job["state"] in GROUPS["waiting"]]
    reasons = await waiting_reason(conn, waiting) if waiting else {}
    return [job | {"reason": reasons[job["id"]]} if job["id"] in reasons else job for job in found]


def list_statement(which: JobFilter, limit: int) -> tuple[str, list[Any]]:
    """The statement behind a list, and its values. Each arm is limited by itself: a page costs a page, whatever the size of history."""
    values: list[Any] = [limit]
    arms = [
        arm.format(where=where, limit="$1")
        for arm, where in ((_OPEN, open_where(which, values)), (_DONE, done_where(which, values)))
        if where is not None
    ]
    return (f"select * from ({' union all '.join(arms)}) jobs order by id desc limit $1" if arms else ""), values


async def show_job(conn: asyncpg.Connection, job_id: int) -> dict[str, Any] | None:
    """One job, open or finished, or None."""
    found = await list_jobs(conn, JobFilter(ids=(job_id,)), 1)
    return found[0] if found else None


async def show_whole(conn: asyncpg.Connection, job_id: int) -> dict[str, Any] | None:
    """One job with all that is known about it: limits, rejects, key, workflow, and the newest of its children."""
    found = await show_job(conn, job_id)
    more = await conn.fetchrow(MORE, job_id) if found else None
    if found is None or more is None:
        return found
    children = await list_jobs(conn, JobFilter(parent_id=job_id), CHILDREN_SHOWN)
    brief = [{name: child[name] for name in ("id", "kind", "state", "partial", "reason", "created_at")} for child in children]
    return found | dict(more) | {"children": brief}


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


async def dead_groups(conn: asyncpg.Connection, which: JobFilter | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Jobs that failed for good, grouped by kind and what went wrong, the latest failure first."""
    values: list[Any] = [limit]
    where = done_where((which or JobFilter()).within(("failed",)), values)
    return [dict(row) for row in await conn.fetch(_DEAD.format(where=where, limit="$1"), *values)] if where else []


async def workflow_runs(
    conn: asyncpg.Connection, workflow: str | None = None, run: int | None = None, limit: int = 20, before_id: int | None = None
) -> list[dict[str, Any]]:
    """Workflow runs, newest first, each with its steps in order, and with what was to be taken back and is not.

    Args:
        before_id: only runs older than that one.
    """
    runs = [dict(row) | {"steps": [], "not_undone": []} for row in await conn.fetch(WORKFLOW_RUNS, workflow, run, limit, before_id)]
    by_id = {found["id"]: found for found in runs}
    for row in await conn.fetch(WORKFLOW_STEPS, list(by_id)):
        found = by_id[row["run"]]
        found["steps"].append({key: value for key, value in row.items() if key != "run"})
        if row["compensates"] and row["state"] != "succeeded":
            found["not_undone"].append(row["compensates"])
    return runs
