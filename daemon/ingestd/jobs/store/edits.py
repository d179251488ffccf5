"""Changing jobs that wait. Whoever runs one has read its row: a job that is claimed is never edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

# What moves forward in its queue, or into another one, lies behind the nodes' cursors: the position lowers them. A moment in the
# future is told too, for a claimer sleeps until the earliest it has heard of.
_TOLD = """
told as (
    select pg_notify('ingestd_job', format('%s %s %s', queue_id, rank, extract(epoch from min(run_at))))
    from moved where parked = 0 and (run_at, queue_id, rank) is distinct from (was_at, was_queue, was_rank)
      and (run_at < was_at or (queue_id, rank) <> (was_queue, was_rank))
    group by queue_id, rank
)"""

MOVE = f"""
with found as materialized (
    select id, run_at, queue_id, rank from ingestd.job
    where id = any ($1::bigint[]) and claim is null and (not $3 or (parked = 0 and attempt > 0 and run_at > now()))
    order by id for update skip locked
), moved as (
    update ingestd.job j set run_at = greatest(now(), $2), due_at = greatest(now(), $2) from found f
    where j.id = f.id and j.claim is null
    returning j.id, j.queue_id, j.rank, j.run_at, j.parked, f.run_at as was_at, f.queue_id as was_queue, f.rank as was_rank
), {_TOLD}
select id, (select count(*) from told) from moved"""

# $2 holds only what is to change. A moment of the past means now, for run_at is a place in the queue; due_at keeps the wish.
EDIT = f"""
with wanted as materialized (select $2::jsonb as c), found as materialized (
    select id, run_at, queue_id, rank, args, max_attempts, timeout, hard_timeout, tags, notes, due_at from ingestd.job
    where id = any ($1::bigint[]) and claim is null order by id for update skip locked
), moved as (
    update ingestd.job j set
        args = case when c ? 'args' then c -> 'args' else j.args end,
        queue_id = case when c ? 'queue' then (select id from ingestd.queue where name = c ->> 'queue') else j.queue_id end,
        rank = case when c ? 'priority' then -(c ->> 'priority')::smallint else j.rank end,
        run_at = case when c ? 'run_at' then greatest(now(), (c ->> 'run_at')::timestamptz) else j.run_at end,
        due_at = case when c ? 'run_at' then (c ->> 'run_at')::timestamptz else j.due_at end,
        max_attempts = case when c ? 'max_attempts' then (c ->> 'max_attempts')::smallint else j.max_attempts end,
        timeout = case when c ? 'timeout' then make_interval(secs => (c ->> 'timeout')::float8) else j.timeout end,
        hard_timeout = case when c ? 'hard_timeout' then make_interval(secs => (c ->> 'hard_timeout')::float8) else j.hard_timeout end,
        tags = case when c ? 'tags' then array(select jsonb_array_elements_text(c -> 'tags')) else j.tags end,
        notes = case when c ? 'notes' then c ->> 'notes' else j.notes end
    from found f, wanted where j.id = f.id and j.claim is null
    returning j.id, j.queue_id, j.rank, j.run_at, j.parked, f.run_at as was_at, f.queue_id as was_queue, f.rank as was_rank,
              jsonb_build_object('args', f.args, 'queue', (select name from ingestd.queue where id = f.queue_id), 'priority', -f.rank,
                                 'run_at', f.due_at, 'max_attempts', f.max_attempts, 'timeout', extract(epoch from f.timeout),
                                 'hard_timeout', extract(epoch from f.hard_timeout), 'tags', f.tags, 'notes', f.notes) as before
), {_TOLD}
select id, before, (select count(*) from told) from moved"""

KIND = "select kind from ingestd.job where id = $1"


async def kind_of(conn: asyncpg.Connection, job_id: int) -> str | None:
    """The kind of an open job."""
    kind: str | None = await conn.fetchval(KIND, job_id)
    return kind


async def move(conn: asyncpg.Connection, ids: Sequence[int], run_at: datetime | None, *, only_retrying: bool = False) -> list[int]:
    """Let waiting jobs run not before `run_at`; None: now. Returns the ids of those that do.

    Args:
        only_retrying: leave out those that do not wait for another attempt.
    """
    return [row["id"] for row in await conn.fetch(MOVE, ids, run_at, only_retrying)]


async def edit(conn: asyncpg.Connection, ids: Sequence[int], changes: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Change waiting jobs.

    Args:
        changes: new values of `args`, `queue`, `priority`, `run_at`, `max_attempts`, `timeout` and `hard_timeout` in seconds, `tags`,
            `notes`.

    Returns:
        What stood there before, by id of what was changed.
    """
    rows = await conn.fetch(EDIT, ids, dict(changes))
    return {row["id"]: {name: row["before"][name] for name in changes} for row in rows}
