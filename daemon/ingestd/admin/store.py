"""The few statements of the server's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from ingestd.facts import Cleared
from ingestd.postgres.retention import clear_rows

LIMIT_TIME = "select set_config('statement_timeout', $1, true)"
# The newest ten thousand bound the work whatever the load table has grown to.
LOADED = """
select coalesce(sum(inserted + updated), 0)::bigint as "rows", count(*) filter (where status in ('succeeded', 'partial')) as loads,
       coalesce(sum(rejected), 0)::bigint as rejected
from (select inserted, updated, rejected, status, finished_at from ingestd.load order by id desc limit 10000) newest
where finished_at > now() - interval '24 hours'"""


# Whoever sends the same key meanwhile waits here for the first one's transaction to end; a key whose day is over counts as a new one.
LOCK_TIME = "select current_setting('lock_timeout'), set_config('lock_timeout', $1, true)"
CLAIM_KEY = """
insert into ingestd.idempotency as old (principal, key, fingerprint) values ($1, $2, $3)
on conflict (principal, key) do update
set fingerprint = excluded.fingerprint, status = null, headers = null, body = null, created_at = now()
where old.created_at < now() - interval '24 hours'
returning true"""
KEPT_ANSWER = "select fingerprint, status, headers, body from ingestd.idempotency where principal = $1 and key = $2"
KEEP_ANSWER = "update ingestd.idempotency set status = $3, headers = $4, body = $5 where principal = $1 and key = $2"
KEY_IS_PAST = "created_at < $1::timestamptz - interval '24 hours'"


async def claim_key(conn: asyncpg.Connection, principal: str, key: str, fingerprint: bytes, wait_ms: int) -> asyncpg.Record | None:
    """Make a key this transaction's own, or find the answer that it was given before.

    Args:
        wait_ms: how long to wait for another transaction that has the key.

    Returns:
        None: it is ours now; else `fingerprint`, `status`, `headers` and `body` of the request that had it.

    Raises:
        asyncpg.LockNotAvailableError: another transaction had it for longer than that.
    """
    (before, _) = await conn.fetchrow(LOCK_TIME, f"{wait_ms}ms")
    claimed = await conn.fetchval(CLAIM_KEY, principal, key, fingerprint)
    await conn.fetchrow(LOCK_TIME, before)
    return None if claimed else await conn.fetchrow(KEPT_ANSWER, principal, key)


async def keep_answer(conn: asyncpg.Connection, principal: str, key: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Keep the answer to a key of this transaction's own."""
    await conn.execute(KEEP_ANSWER, principal, key, status, dict(headers), body)


async def forget_answers(conn: asyncpg.Connection, now: datetime, dry_run: bool) -> Cleared:
    """Drop answers whose day is over, or only count them."""
    return await clear_rows(conn, "answers kept for repeated requests", "ingestd.idempotency", KEY_IS_PAST, now, dry_run=dry_run)


# Ids must become visible in their order. The lock is a statement of its own: it ends with the transaction, after the commit.
ORDER_EVENTS = "select pg_advisory_xact_lock(hashtextextended('ingestd:event', 0))"
WRITE_EVENTS = """
insert into ingestd.event (at, node, name, data)
select * from unnest($1::timestamptz[], array_fill($2::text, array[cardinality($3::text[])]), $3::text[], $4::jsonb[])"""
EVENTS_AFTER = "select id, at, node, name, data from ingestd.event where id > $1 order by id limit $2"
EVENTS = """
select id, at, node, name, data from ingestd.event
where ($1::bigint is null or id < $1) and ($2::bigint is null or id > $2) and ($3::text[] is null or name like any ($3))
order by id desc limit $4"""
EVENTS_SPAN = "select coalesce(min(id), 0) as oldest, coalesce(max(id), 0) as newest from ingestd.event"
# Some always stay, so that the newest id is known; and never more than that many, however much happens.
FORGET_EVENTS = """
delete from ingestd.event
where id < (select max(id) - 1000 from ingestd.event)
  and (at < now() - interval '1 hour' or id < (select max(id) - 100000 from ingestd.event))"""


async def write_events(conn: asyncpg.Connection, node: str, rows: Sequence[tuple[datetime, str, Mapping[str, Any]]]) -> None:
    """Write down what happened on a node: when, its name, and more about it. In a transaction."""
    await conn.execute(ORDER_EVENTS)
    at, names, data = zip(*rows, strict=True)
    await conn.execute(WRITE_EVENTS, at, node, names, data)


async def events_after(conn: asyncpg.Connection, after: int, limit: int) -> list[asyncpg.Record]:
    """What happened behind an event, the oldest first."""
    rows: list[asyncpg.Record] = await conn.fetch(EVENTS_AFTER, after, limit)
    return rows


async def latest_events(
    conn: asyncpg.Connection, patterns: Sequence[str] | None, before: int | None, after: int | None, limit: int
) -> list[asyncpg.Record]:
    """What happened last, the newest first.

    Args:
        patterns: LIKE patterns of names; None: all.
    """
    rows: list[asyncpg.Record] = await conn.fetch(EVENTS, before, after, patterns, limit)
    return rows


async def events_span(conn: asyncpg.Connection) -> tuple[int, int]:
    """The ids of the oldest and of the newest event there is; 0 without any."""
    row = await conn.fetchrow(EVENTS_SPAN)
    return row["oldest"], row["newest"]


async def forget_events(conn: asyncpg.Connection) -> None:
    """Drop what nobody can still be following."""
    await conn.execute(FORGET_EVENTS)


async def limit_time(conn: asyncpg.Connection, milliseconds: int) -> None:
    """Let no statement of this transaction take longer."""
    await conn.execute(LIMIT_TIME, str(milliseconds))


async def loaded_lately(conn: asyncpg.Connection) -> asyncpg.Record:
    """What loads of the last 24 hours brought in: `rows` inserted or updated, `loads` that succeeded, records `rejected`."""
    return await conn.fetchrow(LOADED)
