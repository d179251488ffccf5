"""The rows of declared schedules: written when a configuration is applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from ingestd.postgres.codecs import dump_json

LOCK = "select pg_advisory_xact_lock(hashtextextended('ingestd:schedules', 0))"
# All of them are held from here to the end of the transaction: a node that fires passes them by and finds a new turn later.
HOLD_ALL = """
select name, rule, timezone, enabled, owner, removed_at, since, accounted_to, next_due_at, starts_at, ends_at
from ingestd.schedule order by name for update"""
HOLD = """
select name, rule, timezone, enabled, owner, removed_at, since, accounted_to, next_due_at, starts_at, ends_at, spec
from ingestd.schedule where name = $1 for update"""
QUEUES = "select name, id from ingestd.queue"

# Rewrites a schedule only if something about it differs, so that applying the same configuration again is nothing.
# The slot that somebody wants passed over belongs to the old rule: with a new one it is forgotten.
SAVE = """
with declared as (
    select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::text[], $8::text[],
                         $9::integer[], $10::interval[], $11::text[], $12::text[], $13::integer[], $14::smallint[], $15::smallint[],
                         $16::text[], $17::text[], $18::timestamptz[], $19::timestamptz[], $20::timestamptz[],
                         $21::text[], $22::interval[], $23::interval[], $24::interval[], $25::timestamptz[], $26::timestamptz[],
                         $27::text[])
        as d(name, rule, timezone, spec, target, enabled, overlap, catch_up, max_catch_up, start_within, kind, args, queue_id, rank,
             max_attempts, key, tags, since, accounted_to, next_due_at, owner, finish_within, target_runtime, jitter, starts_at, ends_at,
             after)
)
insert into ingestd.schedule as s (name, rule, timezone, spec, target, owner, enabled, overlap, catch_up, max_catch_up, start_within,
                                   kind, args, queue_id, rank, max_attempts, key, tags, since, accounted_to, next_due_at,
                                   finish_within, target_runtime, jitter, starts_at, ends_at, after)
select name, rule, timezone, spec::jsonb, target::jsonb, owner, enabled, overlap, catch_up, max_catch_up, start_within, kind,
       args::jsonb, queue_id, rank, max_attempts, key, array(select jsonb_array_elements_text(d.tags::jsonb)), since, accounted_to,
       next_due_at, finish_within, target_runtime, jitter, starts_at, ends_at, after::jsonb
from declared d
on conflict (name) do update
set rule = excluded.rule, timezone = excluded.timezone, spec = excluded.spec, target = excluded.target, owner = excluded.owner,
    enabled = excluded.enabled, overlap = excluded.overlap, catch_up = excluded.catch_up, max_catch_up = excluded.max_catch_up,
    start_within = excluded.start_within, kind = excluded.kind, args = excluded.args, queue_id = excluded.queue_id,
    rank = excluded.rank, max_attempts = excluded.max_attempts, key = excluded.key, tags = excluded.tags, since = excluded.since,
    accounted_to = excluded.accounted_to, next_due_at = excluded.next_due_at, finish_within = excluded.finish_within,
    target_runtime = excluded.target_runtime, jitter = excluded.jitter, starts_at = excluded.starts_at, ends_at = excluded.ends_at,
    after = excluded.after, removed_at = null, problem = null,
    skip_at = case when s.since = excluded.since then s.skip_at end,
    skip_by = case when s.since = excluded.since then s.skip_by end,
    skip_reason = case when s.since = excluded.since then s.skip_reason end,
    turn = s.turn + 1, applied_at = now()
where (s.spec, s.target, s.rule, s.timezone, s.owner, s.enabled, s.kind, s.args, s.queue_id, s.rank, s.max_attempts, s.key, s.tags,
       s.since, s.next_due_at, s.starts_at, s.ends_at, s.removed_at)
    is distinct from
      (excluded.spec, excluded.target, excluded.rule, excluded.timezone, excluded.owner, excluded.enabled, excluded.kind,
       excluded.args, excluded.queue_id, excluded.rank, excluded.max_attempts, excluded.key, excluded.tags, excluded.since,
       excluded.next_due_at, excluded.starts_at, excluded.ends_at, null::timestamptz)
returning name"""

MOVE = """
update ingestd.schedule s set next_due_at = m.next_due_at, turn = s.turn + 1
from unnest($1::text[], $2::timestamptz[]) as m(name, next_due_at) where s.name = m.name"""
REMOVE = """
update ingestd.schedule set removed_at = now(), next_due_at = null, paused_at = null, paused_by = null, paused_until = null,
    pause_reason = null, skip_at = null, skip_by = null, skip_reason = null, turn = turn + 1
where name = any ($1) and removed_at is null"""

IS_OVER = "select next_due_at is null from ingestd.schedule where name = $1"
MADE_BY_HAND = "select name, spec from ingestd.schedule where owner = 'api' and removed_at is null order by name"
# Nodes wait for the next moment that they knew of; it may be sooner now.
TELL_CHANGED = "select pg_notify('ingestd_schedule', '')"
NAMES = "select name from ingestd.schedule where removed_at is null order by name"


@dataclass(frozen=True, slots=True)
class DeclaredRow:
    """A schedule as it is written, its target compiled.

    Args:
        spec: as its owner declared it.
        target: what it starts, as people call it: `{"type", "name"}`.
        since: no slots at or before.
        accounted_to: slots up to here are rows.
        owner: `file` or `api`.
        jitter: the most that a job waits behind its slot.
        after: what must have succeeded first, as `DependencySettings.stored` writes it.
    """

    name: str
    rule: str
    timezone: str
    spec: dict[str, Any]
    target: dict[str, Any]
    enabled: bool
    overlap: str
    catch_up: str
    max_catch_up: int
    start_within: timedelta | None
    kind: str
    args: dict[str, Any]
    queue_id: int
    rank: int
    max_attempts: int
    key: str | None
    tags: list[str]
    since: datetime
    accounted_to: datetime
    next_due_at: datetime | None
    owner: str = "file"
    finish_within: timedelta | None = None
    target_runtime: timedelta | None = None
    jitter: timedelta = timedelta()
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    after: Sequence[Mapping[str, Any]] = ()


async def lock(conn: asyncpg.Connection) -> None:
    """Let one transaction at a time apply schedules."""
    await conn.execute(LOCK)


async def hold_all(conn: asyncpg.Connection) -> dict[str, asyncpg.Record]:
    """All schedules ever declared, by name, held until the transaction ends."""
    return {row["name"]: row for row in await conn.fetch(HOLD_ALL)}


async def hold(conn: asyncpg.Connection, name: str) -> asyncpg.Record | None:
    """The schedule of that name, removed or not, held until the transaction ends."""
    row: asyncpg.Record | None = await conn.fetchrow(HOLD, name)
    return row


async def is_over(conn: asyncpg.Connection, name: str) -> bool:
    """Whether a schedule has no slot to come."""
    return bool(await conn.fetchval(IS_OVER, name))


async def made_by_hand(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Names and keys of the schedules in service that are not the file's."""
    rows: list[asyncpg.Record] = await conn.fetch(MADE_BY_HAND)
    return rows


async def tell_changed(conn: asyncpg.Connection) -> None:
    """Let all nodes look at once, when the transaction has ended, what is due next."""
    await conn.execute(TELL_CHANGED)


async def queue_ids(conn: asyncpg.Connection) -> dict[str, int]:
    """Ids of the queues, by name."""
    return {row["name"]: row["id"] for row in await conn.fetch(QUEUES)}


async def save(conn: asyncpg.Connection, rows: Sequence[DeclaredRow]) -> set[str]:
    """Write schedules; returns the names of those that were new or differed."""
    found = await conn.fetch(
        SAVE,
        [row.name for row in rows],
        [row.rule for row in rows],
        [row.timezone for row in rows],
        [dump_json(row.spec) for row in rows],
        [dump_json(row.target) for row in rows],
        [row.enabled for row in rows],
        [row.overlap for row in rows],
        [row.catch_up for row in rows],
        [row.max_catch_up for row in rows],
        [row.start_within for row in rows],
        [row.kind for row in rows],
        [dump_json(row.args) for row in rows],
        [row.queue_id for row in rows],
        [row.rank for row in rows],
        [row.max_attempts for row in rows],
        [row.key for row in rows],
        [dump_json(row.tags) for row in rows],
        [row.since for row in rows],
        [row.accounted_to for row in rows],
        [row.next_due_at for row in rows],
        [row.owner for row in rows],
        [row.finish_within for row in rows],
        [row.target_runtime for row in rows],
        [row.jitter for row in rows],
        [row.starts_at for row in rows],
        [row.ends_at for row in rows],
        [dump_json(list(row.after)) for row in rows],
    )
    return {row["name"] for row in found}


async def move(conn: asyncpg.Connection, following: Mapping[str, datetime | None]) -> None:
    """Give schedules that are held another next moment."""
    if following:
        await conn.execute(MOVE, list(following), list(following.values()))


async def remove(conn: asyncpg.Connection, names: Sequence[str]) -> None:
    """Take schedules out of service; their slots stay."""
    await conn.execute(REMOVE, list(names))


async def names(conn: asyncpg.Connection) -> list[str]:
    """Names of the schedules in service."""
    return [row["name"] for row in await conn.fetch(NAMES)]
