"""What a measurement writes and reads beside the queue's own statements."""

from __future__ import annotations

from typing import Any

import asyncpg

# Nobody else has a queue or kinds of these names: what is of theirs is deleted.
QUEUE = "ingestd_bench"
KINDS = ("ingestd_bench_noop", "ingestd_bench_ping")

ADD_QUEUE = """
insert into ingestd.queue (name, concurrency) values ($1, $2)
on conflict (name) do update set concurrency = excluded.concurrency"""
WAITING = "select exists (select from ingestd.job where queue_id = (select id from ingestd.queue where name = $1))"
FIRST_START = """
select extract(epoch from min(started_at))::float8 from ingestd.history
where kind = $1 and queue_id = (select id from ingestd.queue where name = $2)"""
PINGS = "select (result)::text::bigint as took from ingestd.history where kind = $1 and result is not null order by id"
# Everything that a run in somebody's own database leaves, and nothing else.
REMOVE = (
    "delete from ingestd.job where queue_id = $1",
    "delete from ingestd.history where queue_id = $1",
    "delete from ingestd.job_stat where queue_id = $1",
    "delete from ingestd.queue where id = $1",
)
QUEUE_ID = "select id from ingestd.queue where name = $1"
REMOVE_KINDS = "delete from ingestd.kind where name = any ($1::text[])"
REMOVE_NODES = """
with gone as (delete from ingestd.node where queues = array[$1::text] and state in ('stopped', 'dead') returning id)
delete from ingestd.node_progress where node in (select id from gone)"""
MAKE_FLOOR = """
create table if not exists ingestd_stg.bench_floor (
    id bigint generated always as identity primary key, kind text not null, args jsonb not null, at timestamptz not null default now()
)"""
INSERT_FLOOR = "insert into ingestd_stg.bench_floor (kind, args) values ('ingestd_bench_noop', '{}') returning id"
DELETE_FLOOR = "delete from ingestd_stg.bench_floor where id = $1"
DROP_FLOOR = "drop table if exists ingestd_stg.bench_floor"
SERVER = """
select current_setting('server_version') as version, current_setting('synchronous_commit') as synchronous_commit,
       current_setting('fsync') as fsync, current_setting('shared_buffers') as shared_buffers,
       current_setting('max_wal_size') as max_wal_size, inet_server_addr() is null as local"""
SETTLE = "vacuum analyze ingestd.job"


async def add_queue(conn: asyncpg.Connection, slots: int) -> None:
    """Make the queue that everything runs in."""
    await conn.execute(ADD_QUEUE, QUEUE, slots)


async def anything_open(conn: asyncpg.Connection) -> bool:
    """Whether a job of ours is open."""
    return bool(await conn.fetchval(WAITING, QUEUE))


async def first_start(conn: asyncpg.Connection) -> float:
    """When the first job began, in Unix time."""
    moment: float = await conn.fetchval(FIRST_START, KINDS[0], QUEUE)
    return moment


async def pings(conn: asyncpg.Connection) -> list[int]:
    """How long each ping took, in nanoseconds."""
    return [row["took"] for row in await conn.fetch(PINGS, KINDS[1])]


async def remove(conn: asyncpg.Connection) -> None:
    """Take everything away again."""
    await conn.execute(DROP_FLOOR)
    queue = await conn.fetchval(QUEUE_ID, QUEUE)
    if queue is not None:
        async with conn.transaction():
            for statement in REMOVE:
                await conn.execute(statement, queue)
    await conn.execute(REMOVE_KINDS, list(KINDS))
    await conn.execute(REMOVE_NODES, QUEUE)


async def make_floor(conn: asyncpg.Connection) -> None:
    """Make the table that plain transactions are measured on."""
    await conn.execute(MAKE_FLOOR)


async def touch_floor(conn: asyncpg.Connection) -> None:
    """Two plain transactions: a row comes and goes."""
    await conn.execute(DELETE_FLOOR, await conn.fetchval(INSERT_FLOOR))


async def settle(conn: asyncpg.Connection) -> None:
    """What autovacuum would have done by and by."""
    await conn.execute(SETTLE)


async def server(conn: asyncpg.Connection) -> dict[str, Any]:
    """The settings that decide about speed."""
    return dict(await conn.fetchrow(SERVER))
