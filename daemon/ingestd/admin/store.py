"""The few statements of the server's own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

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


async def limit_time(conn: asyncpg.Connection, milliseconds: int) -> None:
    """Let no statement of this transaction take longer."""
    await conn.execute(LIMIT_TIME, str(milliseconds))


async def loaded_lately(conn: asyncpg.Connection) -> asyncpg.Record:
    """What loads of the last 24 hours brought in: `rows` inserted or updated, `loads` that succeeded, records `rejected`."""
    return await conn.fetchrow(LOADED)
