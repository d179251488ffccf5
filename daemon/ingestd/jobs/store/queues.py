"""Queues and kinds."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from ingestd.jobs.registry import HandlerSpec

DECLARE = """
insert into ingestd.queue (name, concurrency) values ($1, $2)
on conflict (name) do update set concurrency = excluded.concurrency"""
QUEUES = "select id, name, concurrency, paused_at is not null as paused, paused_by from ingestd.queue order by id"
PAUSE = """
update ingestd.queue set paused_at = now(), paused_by = $2 where name = $1 and paused_at is null returning id"""
RESUME = "update ingestd.queue set paused_at = null, paused_by = null where name = $1 and paused_at is not null returning id"
EXISTS = "select exists (select from ingestd.queue where name = $1)"
PUBLISH = """
insert into ingestd.kind (name, queue, priority, max_attempts, published_by)
select * from unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[], $5::uuid[])
on conflict (name) do update set queue = excluded.queue, priority = excluded.priority, max_attempts = excluded.max_attempts,
    published_by = excluded.published_by, published_at = now()"""
PUBLISH_MISSING = """
insert into ingestd.kind (name, queue, priority, max_attempts) select * from unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[])
on conflict (name) do nothing"""
KINDS = "select name, queue, priority, max_attempts, published_at from ingestd.kind order by name"
KNOWN = "select exists (select from ingestd.kind where name = $1)"


async def declare_queue(conn: asyncpg.Connection, name: str, concurrency: int) -> None:
    """Make a queue or update its slots."""
    await conn.execute(DECLARE, name, concurrency)


async def queues(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """All queues: id, name, concurrency, paused, paused_by."""
    rows: list[asyncpg.Record] = await conn.fetch(QUEUES)
    return rows


async def pause_queue(conn: asyncpg.Connection, name: str, by: str) -> bool:
    """Stop claiming from a queue; False if it is paused already."""
    return await conn.fetchval(PAUSE, name, by) is not None


async def resume_queue(conn: asyncpg.Connection, name: str) -> bool:
    """Claim from a queue again; False if it was not paused."""
    return await conn.fetchval(RESUME, name) is not None


async def queue_exists(conn: asyncpg.Connection, name: str) -> bool:
    """Whether there is such a queue."""
    return bool(await conn.fetchval(EXISTS, name))


async def publish_kinds(conn: asyncpg.Connection, specs: Sequence[HandlerSpec], node: UUID) -> None:
    """Tell callers in other processes and languages which kinds can be run, and their defaults."""
    await conn.execute(
        PUBLISH,
        [spec.kind for spec in specs],
        [spec.queue for spec in specs],
        [spec.priority for spec in specs],
        [spec.max_attempts for spec in specs],
        [node] * len(specs),
    )


async def publish_missing_kinds(conn: asyncpg.Connection, specs: Sequence[HandlerSpec]) -> None:
    """Publish kinds that no node has published yet, for a caller that has their code at hand."""
    await conn.execute(
        PUBLISH_MISSING,
        [spec.kind for spec in specs],
        [spec.queue for spec in specs],
        [spec.priority for spec in specs],
        [spec.max_attempts for spec in specs],
    )


async def kinds(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """All kinds that a node ever published."""
    rows: list[asyncpg.Record] = await conn.fetch(KINDS)
    return rows


async def kind_known(conn: asyncpg.Connection, kind: str) -> bool:
    """Whether a node ever published this kind."""
    return bool(await conn.fetchval(KNOWN, kind))
