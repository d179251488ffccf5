"""What a node and its queues tell others: where it waits, how many slots it has and why, and whether it was asked to drain."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

TELL_IDLE = """
insert into ingestd.node_idle (node, queues) values ($1, $2) on conflict (node) do update set queues = excluded.queues"""
TELL_LANES = "update ingestd.node set lanes = $2 where id = $1"
DRAIN_ASKED = "select drain_asked_by from ingestd.node where id = $1 and drain_asked_at is not null"
# A node that was asked before keeps the first asker.
ASK_DRAIN = """
update ingestd.node set drain_asked_at = now(), drain_asked_by = $2
where id = $1 and state in ('starting', 'running') and drain_asked_at is null returning id"""
FIND = """
select id, name, state, drain_asked_at is not null as asked from ingestd.node
where id::text = $1 or name = $1 or (length($1) >= 4 and starts_with(id::text, $1))
order by state in ('starting', 'running', 'draining') desc, started_at desc"""
LIVE_NAMES = "select name from ingestd.node where state in ('starting', 'running', 'draining') order by name"
# Whether anything could start in each of these queues if there was a slot: one index probe a queue and rank.
WAITING = """
select q.id from unnest($1::integer[]) q(id) where exists (
    select from ingestd.job j where j.queue_id = q.id and j.claim is null and j.parked = 0 and j.run_at <= now()
      and j.kind = any ($2::text[]) and (j.store is null or j.store = $3))"""


async def tell_idle(conn: asyncpg.Connection, node: UUID, queues: Collection[int]) -> None:
    """Write on which queues a node waits for work."""
    await conn.execute(TELL_IDLE, node, sorted(queues))


async def tell_lanes(conn: asyncpg.Connection, node: UUID, lanes: Mapping[str, Mapping[str, Any]]) -> None:
    """Write how many slots each queue has on a node, how many are taken, and why they changed last."""
    await conn.execute(TELL_LANES, node, {name: dict(lane) for name, lane in lanes.items()})


async def drain_asked(conn: asyncpg.Connection, node: UUID) -> str | None:
    """Who asked this node to drain, if somebody did."""
    asker: str | None = await conn.fetchval(DRAIN_ASKED, node)
    return asker


async def ask_drain(conn: asyncpg.Connection, node: UUID, by: str) -> bool:
    """Ask a node to drain; False if it was asked before, or is not running."""
    return await conn.fetchval(ASK_DRAIN, node, by) is not None


async def find_nodes(conn: asyncpg.Connection, words: str) -> list[asyncpg.Record]:
    """Nodes by id, the beginning of one, or name; live ones first."""
    rows: list[asyncpg.Record] = await conn.fetch(FIND, words)
    return rows


async def live_names(conn: asyncpg.Connection) -> list[str]:
    """Names of the nodes that run."""
    return [row["name"] for row in await conn.fetch(LIVE_NAMES)]


async def waiting(conn: asyncpg.Connection, queues: Sequence[int], kinds: Sequence[str], store: UUID) -> set[int]:
    """Which of these queues hold a job that this node could start now."""
    return {row["id"] for row in await conn.fetch(WAITING, list(queues), list(kinds), store)}
