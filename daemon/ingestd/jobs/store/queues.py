"""Queues and kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.settings import QueueSettings, Rate
from ingestd.jobs.store import limits, reads
from ingestd.postgres.codecs import dump_json

SHOWN = (
    "id", "name", "concurrency", "min_concurrency", "global_concurrency", "key_concurrency", "limited", "paused", "paused_by", "paused_at",
)  # fmt: skip

DECLARE = """
insert into ingestd.queue (name, concurrency, min_concurrency, global_concurrency, key_concurrency, rate_count, rate_period)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (name) do update set concurrency = excluded.concurrency, min_concurrency = excluded.min_concurrency,
    global_concurrency = excluded.global_concurrency, key_concurrency = excluded.key_concurrency, rate_count = excluded.rate_count,
    rate_period = excluded.rate_period"""
QUEUES = """
select id, name, concurrency, min_concurrency, global_concurrency, key_concurrency, rate_count, rate_period, limited,
       paused_at is not null as paused, paused_by, paused_at
from ingestd.queue order by id"""
# Nodes look at once, and see the new state of the queue when they do.
PAUSE = """
with q as (
    update ingestd.queue set paused_at = now(), paused_by = $2 where name = $1 and paused_at is null returning id
)
select id, pg_notify('ingestd_job', '') from q"""
RESUME = """
with q as (
    update ingestd.queue set paused_at = null, paused_by = null where name = $1 and paused_at is not null returning id
)
select id, pg_notify('ingestd_job', '') from q"""
# What lives may serve a queue, so many slots each.
SLOTS = """
select lane.key as name, sum((lane.value ->> 'slots')::integer)::integer as slots, count(*)::integer as nodes
from ingestd.node n, jsonb_each(n.lanes) lane where n.state = 'running' and 'work' = any (n.duties) group by 1"""
EXISTS = "select exists (select from ingestd.queue where name = $1)"
PUBLISH = """
insert into ingestd.kind (name, queue, priority, max_attempts, aliases, arguments, published_by)
select name, queue, priority, max_attempts, string_to_array(aliases, ' '), arguments::jsonb, $7
from unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[], $5::text[], $6::text[])
     as k(name, queue, priority, max_attempts, aliases, arguments)
on conflict (name) do update set queue = excluded.queue, priority = excluded.priority, max_attempts = excluded.max_attempts,
    aliases = excluded.aliases, arguments = excluded.arguments, published_by = excluded.published_by, published_at = now()"""
PUBLISH_MISSING = """
insert into ingestd.kind (name, queue, priority, max_attempts, aliases, arguments)
select name, queue, priority, max_attempts, string_to_array(aliases, ' '), arguments::jsonb
from unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[], $5::text[], $6::text[])
     as k(name, queue, priority, max_attempts, aliases, arguments)
on conflict (name) do nothing"""
KINDS = "select name, queue, priority, max_attempts, published_at from ingestd.kind order by name"
# By its name, or by one that it had before. As text: a caller's own connection need not have our codecs.
PUBLISHED = """
select name, arguments::text as arguments from ingestd.kind where name = $1 or $1 = any (aliases) order by name = $1 desc limit 1"""
KNOWN = "select exists (select from ingestd.kind where name = $1)"


async def declare_queue(conn: asyncpg.Connection, name: str, declared: QueueSettings) -> None:
    """Make a queue, or give it other slots and limits."""
    await conn.execute(
        DECLARE,
        name,
        declared.concurrency,
        declared.min_concurrency,
        declared.global_concurrency,
        declared.key_concurrency,
        declared.rate.count,
        declared.rate.period,
    )


async def declare_missing_queues(conn: asyncpg.Connection, declared: Mapping[str, QueueSettings]) -> None:
    """Make queues that no node has made yet, for a caller that has their configuration at hand."""
    there = {row["name"] for row in await queues(conn)}
    for name in declared.keys() - there:
        await declare_queue(conn, name, declared[name])


async def queues(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """All queues with their slots, limits and whether they are paused."""
    rows: list[asyncpg.Record] = await conn.fetch(QUEUES)
    return rows


async def overview(conn: asyncpg.Connection) -> list[dict[str, Any]]:
    """All queues as the API and the command line show them: depth, what runs, how old the oldest is, limits and what is left of them."""
    found = {row["name"]: _shown(row) for row in await queues(conn)}
    for row in await reads.counts(conn):
        found[row["queue"]]["jobs"][row["state"]] = row["n"]
    for name, age in (await reads.oldest_ages(conn)).items():
        found[name]["oldest_age_seconds"] = round(age, 3)
    for row in await conn.fetch(SLOTS):
        if row["name"] in found:
            found[row["name"]] |= {"slots": row["slots"], "nodes": row["nodes"]}
    for shown in found.values():
        queue_id = shown.pop("id")
        shown |= {"depth": shown["jobs"].get("available", 0), "running": shown["jobs"].get("running", 0)}
        room = await limits.room_of(conn, queue_id) if shown.pop("limited") else None
        if room is not None:
            left = {"running": room.running, "starts": room.starts}
            shown["left"] = {name: max(n, 0) for name, n in left.items() if n is not None} | {"wait_seconds": round(room.wait_s, 3)}
    return list(found.values())


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    shown = {name: row[name] for name in SHOWN}
    rate = Rate(row["rate_count"], row["rate_period"])
    return shown | {"rate": str(rate) or None, "slots": 0, "nodes": 0, "jobs": {}, "oldest_age_seconds": 0.0, "left": None}


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
        *_columns(specs),
        node,
    )


async def publish_missing_kinds(conn: asyncpg.Connection, specs: Sequence[HandlerSpec]) -> None:
    """Publish kinds that no node has published yet, for a caller that has their code at hand."""
    await conn.execute(
        PUBLISH_MISSING,
        *_columns(specs),
    )


def _columns(specs: Sequence[HandlerSpec]) -> list[list[Any]]:
    rows = [(s.kind, s.queue, s.priority, s.max_attempts, " ".join(s.aliases), dump_json(s.schema())) for s in specs]
    return [list(column) for column in zip(*rows, strict=True)] or [[]] * 6


async def kinds(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """All kinds that a node ever published."""
    rows: list[asyncpg.Record] = await conn.fetch(KINDS)
    return rows


async def kind_known(conn: asyncpg.Connection, kind: str) -> bool:
    """Whether a node ever published this kind."""
    return bool(await conn.fetchval(KNOWN, kind))


async def published_kind(conn: asyncpg.Connection, kind: str) -> tuple[str, dict[str, Any] | None] | None:
    """The present name and the argument schema of a kind; None if nobody ever published it."""
    row = await conn.fetchrow(PUBLISHED, kind)
    return None if row is None else (row["name"], orjson.loads(row["arguments"]) if row["arguments"] else None)
