"""The SQL of the audit log and of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import asyncpg

from ingestd.access.roles import Actor
from ingestd.facts import Cleared
from ingestd.postgres.retention import clear_rows

RECORD = """
insert into ingestd.audit (actor, role, via, action, object_type, object_id, detail, correlation_id, token_id, address, outcome)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"""
AUDIT = "id, at, actor, role, via, action, object_type, object_id, outcome, detail, correlation_id, token_id, address"
LATEST = f"""
select {AUDIT} from ingestd.audit
where ($1::text is null or object_type = $1) and ($2::text is null or object_id = $2) and ($4::text is null or actor = $4)
  and ($5::text is null or action = $5) and ($6::text is null or outcome = $6) and ($7::text is null or correlation_id = $7)
  and ($8::timestamptz is null or at >= $8) and ($9::timestamptz is null or at < $9) and ($10::bigint is null or id < $10)
order by id desc limit $3"""

AUDIT_IS_PAST = "at < $1::timestamptz"
HAS_ENDED = "(revoked_at < $1::timestamptz or expires_at < $1::timestamptz)"

KEY_NAMED = "select value from ingestd.secret where name = $1"
KEPT = (
    "id, name, prefix, role, scopes, created_at, created_by, expires_at, last_used_at, last_used_from, revoked_at, revoked_by, "
    "coalesce(expires_at <= now(), false) as expired"
)
TOKENS = f"""
select {KEPT} from ingestd.token
where ($1 or (revoked_at is null and (expires_at is null or expires_at > now()))) order by id"""
# What nodes hold in memory. Seconds that are left, not moments: a node's clock need not agree with the database's.
BOOK = """
select id, name, hash, role, scopes, revoked_at, expires_at, extract(epoch from expires_at - now())::float8 as left_s
from ingestd.token"""
ADD = f"""
insert into ingestd.token (name, prefix, hash, role, scopes, created_by, expires_at)
values ($1, $2, $3, $4, $5, $6, now() + $7::interval) returning {KEPT}"""
FIND = f"""
select {KEPT} from ingestd.token where id::text = $1 or name = $1 or prefix = $1 order by revoked_at is not null, id desc"""
REVOKE = f"update ingestd.token set revoked_at = now(), revoked_by = $2 where id = $1 and revoked_at is null returning {KEPT}"
# Several nodes may serve one token: its row is written once a minute all the same.
USED = """
update ingestd.token t set last_used_at = now(), last_used_from = used.address
from unnest($1::bigint[], $2::text[]) used (id, address)
where t.id = used.id and (t.last_used_at is null or t.last_used_at < now() - interval '55 s')"""

Outcome = Literal["done", "denied"]


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which audit rows; None: any.

    Args:
        before_id: only older rows than that one.
    """

    object_type: str | None = None
    object_id: str | None = None
    actor: str | None = None
    action: str | None = None
    outcome: str | None = None
    correlation_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before_id: int | None = None


async def forget_audit(conn: asyncpg.Connection, before: datetime, dry_run: bool) -> Cleared:
    """Drop audit rows older than that, or only count them."""
    return await clear_rows(conn, "audit log", "ingestd.audit", AUDIT_IS_PAST, before, dry_run=dry_run)


async def forget_tokens(conn: asyncpg.Connection, before: datetime, dry_run: bool) -> Cleared:
    """Drop tokens that have not let anybody in since then, or only count them."""
    return await clear_rows(conn, "revoked and expired tokens", "ingestd.token", HAS_ENDED, before, dry_run=dry_run)


async def record_audit(
    conn: asyncpg.Connection,
    actor: Actor,
    action: str,
    object_type: str,
    object_id: str | int,
    detail: Mapping[str, Any] | None = None,
    outcome: Outcome = "done",
) -> None:
    """Write who did what; call it in the transaction of the effect.

    Args:
        action: a verb in the past or imperative, such as `retry`.
        object_type: the noun it was done to, such as `job`.
        object_id: its id or name.
        detail: what else a reader at 3 a.m. would want to know.
        outcome: `denied` where it was asked for in vain.
    """
    await conn.execute(
        RECORD,
        actor.name,
        actor.role,
        actor.via,
        action,
        object_type,
        str(object_id),
        dict(detail or {}),
        actor.correlation_id,
        actor.token_id,
        actor.address,
        outcome,
    )


async def latest_audit(
    conn: asyncpg.Connection, object_type: str | None = None, object_id: str | None = None, limit: int = 50
) -> list[asyncpg.Record]:
    """The newest audit rows, all of them or those of one object."""
    return await find_audit(conn, AuditFilter(object_type, object_id), limit)


async def find_audit(conn: asyncpg.Connection, which: AuditFilter, limit: int) -> list[asyncpg.Record]:
    """The newest audit rows that fit."""
    rows: list[asyncpg.Record] = await conn.fetch(
        LATEST,
        which.object_type,
        which.object_id,
        limit,
        which.actor,
        which.action,
        which.outcome,
        which.correlation_id,
        which.since,
        which.until,
        which.before_id,
    )
    return rows


async def secret(conn: asyncpg.Connection, name: str) -> bytes:
    """A key that all nodes share, by its name in migrations/0006_access.sql."""
    value: bytes = await conn.fetchval(KEY_NAMED, name)
    return value


async def list_tokens(conn: asyncpg.Connection, every: bool = False) -> list[asyncpg.Record]:
    """The tokens that let somebody in, or every one there was; never their hashes."""
    rows: list[asyncpg.Record] = await conn.fetch(TOKENS, every)
    return rows


async def token_book(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """All tokens with their hashes and the seconds they have left."""
    rows: list[asyncpg.Record] = await conn.fetch(BOOK)
    return rows


async def add_token(
    conn: asyncpg.Connection,
    *,
    name: str,
    prefix: str,
    hashed: bytes,
    role: str,
    scopes: Sequence[str],
    created_by: str,
    valid_for: timedelta | None,
) -> asyncpg.Record:
    """Enter a token.

    Raises:
        asyncpg.UniqueViolationError: a token that lets somebody in has that name.
    """
    return await conn.fetchrow(ADD, name, prefix, hashed, role, list(scopes), created_by, valid_for)


async def find_tokens(conn: asyncpg.Connection, which: str) -> list[asyncpg.Record]:
    """Tokens by id, name or prefix, those in force first."""
    rows: list[asyncpg.Record] = await conn.fetch(FIND, which)
    return rows


async def revoke_token(conn: asyncpg.Connection, token_id: int, by: str) -> asyncpg.Record | None:
    """End a token now; None if it had been before."""
    return await conn.fetchrow(REVOKE, token_id, by)


async def tokens_used(conn: asyncpg.Connection, used: Mapping[int, str]) -> None:
    """Note that tokens were used just now.

    Args:
        used: token id -> the address it was used from last.
    """
    await conn.execute(USED, list(used), list(used.values()))
