"""Nodes: their rows, locks and progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from ingestd.facts import Cleared
from ingestd.postgres.retention import clear_rows
from ingestd.work.node import NodeIdentity

LOCK = "select pg_try_advisory_lock(hashtextextended('ingestd:node:' || $1, 0))"
# A node that was taken for dead while it was only cut off comes back under its own id; its old claims are fenced.
REGISTER = """
insert into ingestd.node (id, store, name, host, pid, version, state, duties, queues, kinds, lock_key, admin_url, by_heartbeat)
values ($1, $2, $3, $4, $5, $6, 'running', $7, $8, $9, hashtextextended('ingestd:node:' || $10, 0), $11, $12)
on conflict (id) do update set state = 'running', heartbeat_at = now(), ended_at = null, queues = excluded.queues,
    kinds = excluded.kinds, admin_url = excluded.admin_url, by_heartbeat = excluded.by_heartbeat"""
BEAT = "update ingestd.node set heartbeat_at = now(), loop_lag_ms = $2, state = $3 where id = $1 and state <> 'dead' returning id"
END = """
with waits_nowhere as (delete from ingestd.node_idle where node = $1)
update ingestd.node set state = $2, ended_at = now() where id = $1"""
PEERS = """
select id, name, host, pid, lock_key, by_heartbeat, heartbeat_at, extract(epoch from now() - heartbeat_at)::float8 as silent_s
from ingestd.node where state in ('starting', 'running', 'draining') and id <> $1"""
# True if nobody holds the node's lock; taken and given back at once.
LOCK_IS_FREE = """
select case when pg_try_advisory_lock($1) then pg_advisory_unlock($1) else false end"""
SERVER_UP_S = "select extract(epoch from now() - pg_postmaster_start_time())::float8"
# A node that stopped in order has handed everything back, unless Postgres was away just then.
BURIED = """
select id, state from ingestd.node where state in ('dead', 'stopped') and exists (select from ingestd.job j where j.node = node.id)"""
PROGRESS = """
insert into ingestd.node_progress (node, at, started, progress) values ($1, now(), $2, $3)
on conflict (node) do update set at = now(), started = excluded.started, progress = excluded.progress"""
STARTED = """
insert into ingestd.node_progress (node, at, started) values ($1, now(), $2)
on conflict (node) do update set at = now(), started = excluded.started"""
# A node that still holds jobs is remembered until they are rescued.
NODE_IS_PAST = """state in ('stopped', 'dead') and ended_at < $1::timestamptz - interval '7 days'
    and not exists (select from ingestd.job j where j.node = ingestd.node.id)"""
FORGET_PROGRESS = "delete from ingestd.node_progress p where not exists (select from ingestd.node n where n.id = p.node)"
NODES = """
select n.id, n.name, n.host, n.pid, n.version, n.state, n.duties, n.queues, n.admin_url, n.loop_lag_ms, n.started_at, n.heartbeat_at,
       n.lanes, n.drain_asked_at, n.drain_asked_by, n.store, extract(epoch from now() - n.heartbeat_at)::float8 as silent_s,
       (select count(*) from ingestd.job j where j.node = n.id and j.claim is not null) as running
from ingestd.node n where n.state in ('starting', 'running', 'draining') or n.ended_at > now() - interval '1 day'
order by n.started_at desc limit 50"""
LIVE_WORKERS = """
select id from ingestd.node where state = 'running' and store = $1 and $2 = any (queues) and 'work' = any (duties)
  and heartbeat_at > now() - interval '15 seconds'"""


async def take_lock(conn: asyncpg.Connection, node: UUID) -> bool:
    """Hold the node's session lock: as long as this session lives, so does the node."""
    return bool(await conn.fetchval(LOCK, str(node)))


async def register(
    conn: asyncpg.Connection,
    node: NodeIdentity,
    *,
    version: str,
    duties: Sequence[str],
    queues: Sequence[str],
    kinds: Sequence[str],
    admin_url: str | None,
    by_heartbeat: bool = False,
) -> None:
    """Enter the node, or bring its row back to life.

    Args:
        by_heartbeat: no session lock tells of its life.
    """
    await conn.execute(
        REGISTER,
        node.id,
        node.store,
        node.name,
        node.host,
        node.pid,
        version,
        list(duties),
        list(queues),
        list(kinds),
        str(node.id),
        admin_url,
        by_heartbeat,
    )


async def beat(conn: asyncpg.Connection, node: UUID, loop_lag_ms: float, state: str) -> bool:
    """Tell that the node lives; False if somebody has declared it dead meanwhile."""
    return await conn.fetchval(BEAT, node, loop_lag_ms, state) is not None


async def end(conn: asyncpg.Connection, node: UUID, state: str) -> None:
    """Mark a node stopped or dead."""
    await conn.execute(END, node, state)


async def peers(conn: asyncpg.Connection, me: UUID) -> list[asyncpg.Record]:
    """Nodes that should be alive, without this one."""
    rows: list[asyncpg.Record] = await conn.fetch(PEERS, me)
    return rows


async def buried_with_jobs(conn: asyncpg.Connection) -> list[tuple[UUID, str]]:
    """Nodes that ended and still hold jobs, and how: a rescue was interrupted or had to skip locked rows, or a last word was lost."""
    return [(row["id"], row["state"]) for row in await conn.fetch(BURIED)]


async def lock_is_free(conn: asyncpg.Connection, lock_key: int) -> bool:
    """Whether nobody holds a node's session lock at this instant."""
    return bool(await conn.fetchval(LOCK_IS_FREE, lock_key))


async def server_up_s(conn: asyncpg.Connection) -> float:
    """Seconds since the server was started."""
    seconds: float = await conn.fetchval(SERVER_UP_S)
    return seconds


async def write_progress(conn: asyncpg.Connection, node: UUID, started: Sequence[int], progress: Mapping[str, Any]) -> None:
    """Publish what the node is doing."""
    await conn.execute(PROGRESS, node, list(started), dict(progress))


async def write_started(conn: asyncpg.Connection, node: UUID, started: Sequence[int]) -> None:
    """Publish only which jobs run: the heartbeat's word where the main loop cannot say it itself."""
    await conn.execute(STARTED, node, list(started))


async def forget_nodes(conn: asyncpg.Connection, now: datetime, dry_run: bool) -> Cleared:
    """Drop rows of nodes that ended a week ago, or only count them."""
    cleared = await clear_rows(conn, "ended nodes", "ingestd.node", NODE_IS_PAST, now, dry_run=dry_run)
    if not dry_run:
        await conn.execute(FORGET_PROGRESS)
    return cleared


async def nodes(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Live nodes and those that ended within a day."""
    rows: list[asyncpg.Record] = await conn.fetch(NODES)
    return rows


async def live_workers(conn: asyncpg.Connection, store: UUID, queue: str) -> list[UUID]:
    """Nodes that work on a queue's jobs and can reach the store's files, as far as their heartbeats tell."""
    return [row["id"] for row in await conn.fetch(LIVE_WORKERS, store, queue)]
