"""The open jobs' rows: enqueue, cancel, edit by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

import asyncpg
import orjson

from ingestd.jobs.checks import json_metadata
from ingestd.jobs.model import PARKED_KEY, NewJob
from ingestd.postgres.codecs import dump_json

# Ordinality keeps the ids in the order of the list.
INSERT = f"""
with new as (
    select n.*, coalesce(n.queue, k.queue, 'default') as lane, coalesce(n.rank, -k.priority, 0) as urgency,
           coalesce(n.max_attempts, k.max_attempts, 4) as tries
    from unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::timestamptz[], $6::smallint[], $7::text[], $8::boolean[],
                $9::uuid[], $10::smallint[], $11::text[], $12::text[], $13::text[], $14::text[], $15::bigint[],
                $16::text[], $17::bigint[], $18::text[])
         with ordinality as n(kind, args, queue, rank, run_at, max_attempts, key, key_strict, store, parked, tags, notes,
                              metadata, correlation_id, parent_id, triggered_by, workflow_run, step, position)
    left join ingestd.kind k on k.name = n.kind
), made as (
    insert into ingestd.job (kind, queue_id, rank, max_attempts, run_at, due_at, key, key_strict, store, parked, args,
                             tags, notes, metadata, correlation_id, parent_id, triggered_by, workflow_run, step)
    select n.kind, q.id, n.urgency, n.tries, coalesce(n.run_at, now()), coalesce(n.run_at, now()), n.key, n.key_strict,
           n.store, n.parked, n.args::jsonb,
           array(select jsonb_array_elements_text(n.tags::jsonb)), n.notes, n.metadata::jsonb, n.correlation_id, n.parent_id,
           n.triggered_by, n.workflow_run, n.step
    from new n left join ingestd.queue q on q.name = n.lane order by n.position
    returning id, queue_id, rank, parked, run_at
), told as (
    -- Only where a node waits: NOTIFY takes a lock of the whole cluster at commit. The position lets nodes lower their cursors:
    -- a transaction that began long ago enqueues behind them. A keyed job needs a promoter first.
    select pg_notify('ingestd_job', case when parked = 0 then format('%s %s %s', queue_id, rank, extract(epoch from min(run_at)))
                                         else 'keys' end)
    from made where parked in (0, {PARKED_KEY}) and run_at <= now() group by queue_id, rank, parked
    having exists (select from ingestd.node_idle i where made.queue_id = any (i.queues))
)
select (select array_agg(id) from made) as ids, (select count(*) from told) as told"""
# Many jobs that differ only in their arguments: one JSON array, in whose order they get their ids, and what they share looked up once.
INSERT_ALIKE = """
with shared as materialized (
    select q.id as queue_id, coalesce($4::smallint, -k.priority, 0)::smallint as rank, coalesce($6::smallint, k.max_attempts, 4) as tries,
           coalesce($5, now() + $12::interval, now()) as due
    from (select) one left join ingestd.kind k on k.name = $1 join ingestd.queue q on q.name = coalesce($3, k.queue, 'default')
), made as (
    insert into ingestd.job (kind, queue_id, rank, max_attempts, run_at, due_at, args, tags, notes, metadata, correlation_id, triggered_by,
                             parent_id, timeout, hard_timeout, backoff)
    select $1, s.queue_id, s.rank, s.tries, s.due, s.due, a.args, $7::text[], $8::text,
           $9::text::jsonb, $10::text, $11, $13::bigint, $14::interval, $15::interval, $16::text::jsonb
    from shared s, jsonb_array_elements($2::text::jsonb) a(args)
    returning id
), told as (
    select pg_notify('ingestd_job', format('%s %s %s', queue_id, rank, extract(epoch from due)))
    from shared where due <= now() and exists (select from ingestd.node_idle i where shared.queue_id = any (i.queues))
)
select array(select id from made) as ids, (select count(*) from told) as told"""
# Whatever the two above leave out: unique keys, delays, a job's own timeouts and backoff.
INSERT_ROWS = "select id, existing, changed from ingestd.enqueue_rows($1::text::jsonb)"
# For roles that may execute this and nothing else, through drivers that are not ours: one parameter, a JSON array.
INSERT_EACH = "select id, existing, changed from ingestd.enqueue_each(%s::jsonb)"
FORGET_HOLDS = """
delete from ingestd.unique_hold where key in (
    select key from ingestd.unique_hold where expires_at < now() order by expires_at limit 10000 for update skip locked)"""
ENDED = """
with asked as (
    select id from unnest($1::bigint[]) asked(id) where not exists (select from ingestd.job j where j.id = asked.id)
)
select a.id, h.state, h.partial, h.result::text as result, h.error::text as error, h.reason
from asked a left join lateral (
    select * from ingestd.history where id = a.id order by finished_at desc limit 1
) h on true"""
MISSING_QUEUES = """
select distinct coalesce(n.queue, k.queue, 'default') from unnest($1::text[], $2::text[]) n(kind, queue)
left join ingestd.kind k on k.name = n.kind
where not exists (select from ingestd.queue q where q.name = coalesce(n.queue, k.queue, 'default'))"""

_SAID = (
    "queue", "max_attempts", "key", "key_strict", "unique_key", "tags", "notes", "correlation_id", "parent_id", "backoff",
)  # fmt: skip
_OURS = ("store", "parked", "triggered_by", "workflow_run", "step")
_LENGTHS = ("delay", "unique_for", "timeout", "hard_timeout")
ASK_CANCEL = "update ingestd.job set cancel_asked_at = now() where id = $1 and claim is not null returning id"


async def insert_jobs(conn: asyncpg.Connection, jobs: Sequence[NewJob], args: Sequence[str]) -> list[int]:
    """Insert plain jobs, waking the nodes once per queue and rank.

    Args:
        args: the arguments of each as JSON.

    Returns:
        The new ids in order.

    Raises:
        asyncpg.NotNullViolationError: a queue does not exist, so none was inserted.
    """
    row = await conn.fetchrow(
        INSERT,
        [j.kind for j in jobs],
        args,
        [j.queue for j in jobs],
        [None if j.priority is None else -j.priority for j in jobs],
        [j.run_at for j in jobs],
        [j.max_attempts for j in jobs],
        [j.key for j in jobs],
        [j.key_strict for j in jobs],
        [j.store for j in jobs],
        # A keyed job is born parked and the promoter frees the head of each key: no race about who is first.
        [j.parked | (PARKED_KEY if j.key else 0) for j in jobs],
        [dump_json(list(j.tags)) for j in jobs],
        [j.notes for j in jobs],
        [json_metadata(j) for j in jobs],
        [j.correlation_id for j in jobs],
        [j.parent_id for j in jobs],
        [j.triggered_by for j in jobs],
        [j.workflow_run for j in jobs],
        [j.step for j in jobs],
    )
    return list(row["ids"] or ())


async def insert_alike(conn: asyncpg.Connection, template: NewJob, args: str) -> list[int]:
    """Insert one job like `template` for each set of arguments.

    Args:
        args: a JSON array of objects, not empty.

    Returns:
        The ids in order; none where the queue does not exist.
    """
    row = await conn.fetchrow(
        INSERT_ALIKE,
        template.kind,
        args,
        template.queue,
        None if template.priority is None else -template.priority,
        template.run_at,
        template.max_attempts,
        list(template.tags),
        template.notes,
        json_metadata(template),
        template.correlation_id,
        template.triggered_by,
        template.delay,
        template.parent_id,
        template.timeout,
        template.hard_timeout,
        None if template.backoff is None else dump_json(dict(template.backoff)),
    )
    ids: list[int] = row["ids"]
    return ids


async def insert_rows(conn: asyncpg.Connection, jobs: Sequence[NewJob], args: Sequence[str]) -> list[tuple[int, bool, bool]]:
    """Insert jobs that use any option; as `insert_jobs`.

    Returns:
        The id of each in order, whether its unique key was held so that this is the id of another, and whether that was changed.
    """
    return [tuple(row) for row in await conn.fetch(INSERT_ROWS, rows_json(jobs, args))]


def rows_json(jobs: Sequence[NewJob], args: Sequence[str], *, ours: bool = True) -> str:
    """Jobs as the SQL functions take them.

    Args:
        args: the arguments of each as JSON.
        ours: with what only our own programs may say.
    """
    rows = []
    for job, text in zip(jobs, args, strict=True):
        row = {name: value for name in _SAID if (value := getattr(job, name))} | {"kind": job.kind, "args": orjson.Fragment(text)}
        if job.priority is not None:
            row["priority"] = job.priority
        if job.run_at is not None:
            # Zones have offsets that Postgres does not read.
            row["run_at"] = job.run_at.astimezone(UTC)
        if job.metadata is not None:
            row["metadata"] = orjson.Fragment(json_metadata(job) or "{}")
        for name in _LENGTHS:
            length = getattr(job, name)
            if length is not None:
                row[name] = f"{length.total_seconds():.6f} seconds"
        if job.unique_key is not None:
            row |= {"unique_mode": job.unique_mode, "unique_until": job.unique_until}
        if ours:
            row |= {name: value for name in _OURS if (value := getattr(job, name))}
        rows.append(row)
    return orjson.dumps(rows, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_NAIVE_UTC).decode()


async def forget_holds(conn: asyncpg.Connection) -> None:
    """Delete unique keys whose period is over; nobody waits for this, and it waits for nobody."""
    await conn.execute(FORGET_HOLDS)


async def ended(conn: asyncpg.Connection, job_ids: Sequence[int]) -> list[asyncpg.Record]:
    """Those of these jobs that are not open: id, state, partial, result, error and reason; state is None where nothing is known."""
    rows: list[asyncpg.Record] = await conn.fetch(ENDED, job_ids)
    return rows


async def missing_queues(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[str]:
    """Names of queues these jobs want that do not exist."""
    rows = await conn.fetch(MISSING_QUEUES, [j.kind for j in jobs], [j.queue for j in jobs])
    return [row[0] for row in rows]


async def ask_cancel(conn: asyncpg.Connection, job_id: int) -> bool:
    """Ask the node that runs a job to cancel it; False if it is not running."""
    return await conn.fetchval(ASK_CANCEL, job_id) is not None
