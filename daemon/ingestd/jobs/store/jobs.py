"""The open jobs' rows: enqueue, cancel, edit by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from ingestd.jobs.model import PARKED_KEY, NewJob
from ingestd.postgres.pool import dump_json

# Ordinality keeps the ids in the order of the list; a job whose unique key is open already is left out here.
INSERT = """
with new as (
    select n.*, coalesce(n.queue, k.queue, 'default') as lane, coalesce(n.rank, -k.priority, 0) as urgency,
           coalesce(n.max_attempts, k.max_attempts, 4) as tries
    from unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::timestamptz[], $6::smallint[], $7::text[], $8::boolean[],
                $9::text[], $10::uuid[], $11::smallint[], $12::text[], $13::text[], $14::text[], $15::text[], $16::bigint[],
                $17::text[], $18::bigint[], $19::text[])
         with ordinality as n(kind, args, queue, rank, run_at, max_attempts, key, key_strict, unique_key, store, parked, tags, notes,
                              metadata, correlation_id, parent_id, triggered_by, workflow_run, step, position)
    left join ingestd.kind k on k.name = n.kind
), made as (
    insert into ingestd.job (kind, queue_id, rank, max_attempts, run_at, due_at, key, key_strict, unique_key, store, parked, args,
                             tags, notes, metadata, correlation_id, parent_id, triggered_by, workflow_run, step)
    select n.kind, q.id, n.urgency, n.tries, coalesce(n.run_at, now()), coalesce(n.run_at, now()), n.key, n.key_strict, n.unique_key,
           n.store, n.parked, n.args::jsonb,
           array(select jsonb_array_elements_text(n.tags::jsonb)), n.notes, n.metadata::jsonb, n.correlation_id, n.parent_id,
           n.triggered_by, n.workflow_run, n.step
    from new n join ingestd.queue q on q.name = n.lane order by n.position
    on conflict (unique_key) where unique_key is not null do nothing
    returning id, queue_id, rank, parked, run_at
), told as (
    -- The position lets nodes lower their cursors: a transaction that began long ago enqueues behind them.
    select pg_notify('ingestd_job', format('%s %s %s', queue_id, rank, extract(epoch from min(run_at))))
    from made where parked = 0 and run_at <= now() group by queue_id, rank
)
select (select array_agg(id) from made) as ids, (select count(*) from told) as told"""
# Many jobs that differ only in their arguments: one array instead of nineteen.
INSERT_ALIKE = """
with made as (
    insert into ingestd.job (kind, queue_id, rank, max_attempts, run_at, due_at, args, tags, notes, metadata, correlation_id, triggered_by)
    select $1, q.id, coalesce($4::smallint, -k.priority, 0), coalesce($6::smallint, k.max_attempts, 4), coalesce($5, now()),
           coalesce($5, now()), a.args::jsonb, $7::text[], $8::text, $9::jsonb, $10::text, $11
    from unnest($2::text[]) with ordinality a(args, position)
    left join ingestd.kind k on k.name = $1 join ingestd.queue q on q.name = coalesce($3, k.queue, 'default')
    order by a.position
    returning id, queue_id, rank, run_at
), told as (
    select pg_notify('ingestd_job', format('%s %s %s', queue_id, rank, extract(epoch from min(run_at))))
    from made where run_at <= now() group by queue_id, rank
)
select array(select id from made) as ids, (select count(*) from told) as told"""
EXISTING = "select id from ingestd.job where unique_key = $1"
MISSING_QUEUES = """
select distinct coalesce(n.queue, k.queue, 'default') from unnest($1::text[], $2::text[]) n(kind, queue)
left join ingestd.kind k on k.name = n.kind
where not exists (select from ingestd.queue q where q.name = coalesce(n.queue, k.queue, 'default'))"""

ASK_CANCEL = "update ingestd.job set cancel_asked_at = now() where id = $1 and claim is not null returning id"


async def insert_jobs(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[int]:
    """Insert jobs, waking the nodes once per queue; returns the new ids in order, without those that were not unique."""
    row = await conn.fetchrow(
        INSERT,
        [j.kind for j in jobs],
        [dump_json(dict(j.args)) for j in jobs],
        [j.queue for j in jobs],
        [None if j.priority is None else -j.priority for j in jobs],
        [j.run_at for j in jobs],
        [j.max_attempts for j in jobs],
        [j.key for j in jobs],
        [j.key_strict for j in jobs],
        [j.unique_key for j in jobs],
        [j.store for j in jobs],
        # A keyed job is born parked and the promoter frees the head of each key: no race about who is first.
        [j.parked | (PARKED_KEY if j.key else 0) for j in jobs],
        [dump_json(list(j.tags)) for j in jobs],
        [j.notes for j in jobs],
        [None if j.metadata is None else dump_json(dict(j.metadata)) for j in jobs],
        [j.correlation_id for j in jobs],
        [j.parent_id for j in jobs],
        [j.triggered_by for j in jobs],
        [j.workflow_run for j in jobs],
        [j.step for j in jobs],
    )
    return list(row["ids"] or ())


async def insert_alike(conn: asyncpg.Connection, template: NewJob, args: Sequence[Mapping[str, Any]]) -> list[int]:
    """Insert one job like `template` for each set of arguments; returns the ids in order."""
    row = await conn.fetchrow(
        INSERT_ALIKE,
        template.kind,
        [dump_json(one) for one in args],
        template.queue,
        None if template.priority is None else -template.priority,
        template.run_at,
        template.max_attempts,
        list(template.tags),
        template.notes,
        None if template.metadata is None else dict(template.metadata),
        template.correlation_id,
        template.triggered_by,
    )
    return list(row["ids"])


async def open_with_unique_key(conn: asyncpg.Connection, unique_key: str) -> int | None:
    """The open job that holds a unique key."""
    job_id: int | None = await conn.fetchval(EXISTING, unique_key)
    return job_id


async def missing_queues(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[str]:
    """Names of queues these jobs want that do not exist."""
    rows = await conn.fetch(MISSING_QUEUES, [j.kind for j in jobs], [j.queue for j in jobs])
    return [row[0] for row in rows]


async def ask_cancel(conn: asyncpg.Connection, job_id: int) -> bool:
    """Ask the node that runs a job to cancel it; False if it is not running."""
    return await conn.fetchval(ASK_CANCEL, job_id) is not None
