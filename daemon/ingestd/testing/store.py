"""What tests ask of the queue that no worker does: one certain job, one after the other, all that is open; and databases to throw away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from ingestd.jobs.model import Job, Slot

# In the order a worker would take them, but one at a time whatever their queue, so that a test runs the same way each time.
NEXT = """
select j.id from ingestd.job j join ingestd.queue q on q.id = j.queue_id
where j.claim is null and j.parked = 0 and j.run_at <= now() + $3::interval and j.kind = any ($1::text[])
  and ($2::text[] is null or q.name = any ($2)) and q.paused_at is null
order by greatest(j.run_at, now()), j.rank, j.run_at, j.id limit 1"""
TAKE = """
update ingestd.job j set claim = $2, node = $3, claimed_at = now(), attempt = j.attempt + 1,
    unique_key = case j.unique_until when 'start' then null else j.unique_key end
from ingestd.queue q where j.id = $1 and j.claim is null and q.id = j.queue_id
returning j.*, q.name as queue, -j.rank as priority"""
OPEN = """
select j.id, j.kind, q.name as queue, j.args, -j.rank as priority, j.run_at, j.attempt, j.max_attempts, j.key, j.unique_key, j.tags,
       j.notes, j.metadata, j.correlation_id, j.parent_id,
       case when j.claim is not null then 'running' when j.parked <> 0 then 'blocked'
            when j.run_at > now() then case when j.attempt > 0 then 'retrying' else 'scheduled' end else 'available' end as state
from ingestd.job j join ingestd.queue q on q.id = j.queue_id
where ($1::text is null or j.kind = $1) and ($2::text is null or q.name = $2) and ($3::jsonb is null or j.args @> $3)
order by j.id"""
# A test has no configuration that would declare them.
MAKE_QUEUES = "insert into ingestd.queue (name) select distinct unnest($1::text[]) on conflict (name) do nothing"
SET = "alter system set {setting}"
RELOAD = "select pg_reload_conf()"
_FIELDS = frozenset(field.name for field in fields(Job))


async def next_due(conn: asyncpg.Connection, kinds: Sequence[str], queues: Sequence[str] | None, ahead: timedelta) -> int | None:
    """The job that is to run next.

    Args:
        ahead: what is due within that time counts as due.
    """
    job_id: int | None = await conn.fetchval(NEXT, list(kinds), None if queues is None else list(queues), ahead)
    return job_id


async def make_queues(conn: asyncpg.Connection, names: Sequence[str]) -> None:
    """Make queues that are not there, as they are without a word in the configuration."""
    await conn.execute(MAKE_QUEUES, list(names))


async def take(conn: asyncpg.Connection, job_id: int, claim: UUID, node: UUID) -> Job | None:
    """Claim one job; None if somebody else holds it."""
    row = await conn.fetchrow(TAKE, job_id, claim, node)
    if row is None:
        return None
    return Job(**{name: value for name, value in row.items() if name in _FIELDS}, slot=Slot.read(row["metadata"] or {}))


async def open_jobs(conn: asyncpg.Connection, kind: str | None = None, queue: str | None = None, args: Any = None) -> list[asyncpg.Record]:
    """Open jobs in the order they were enqueued; those whose arguments include `args`."""
    rows: list[asyncpg.Record] = await conn.fetch(OPEN, kind, queue, args)
    return rows


async def configure(conn: asyncpg.Connection, settings: Sequence[str]) -> None:
    """Change settings of the whole server; they hold after its next start."""
    for setting in settings:
        await conn.execute(SET.format(setting=setting))


async def reload(conn: asyncpg.Connection) -> None:
    """Put changed settings in force that need no start."""
    await conn.execute(RELOAD)
