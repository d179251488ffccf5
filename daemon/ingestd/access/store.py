"""The audit log's SQL."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import asyncpg

from ingestd.access.roles import Actor
from ingestd.facts import Cleared
from ingestd.postgres.retention import clear_rows

RECORD = """
insert into ingestd.audit (actor, role, via, action, object_type, object_id, detail, correlation_id)
values ($1, $2, $3, $4, $5, $6, $7, $8)"""
LATEST = """
select id, at, actor, role, via, action, object_type, object_id, detail, correlation_id
from ingestd.audit where ($1::text is null or object_type = $1) and ($2::text is null or object_id = $2)
order by id desc limit $3"""

AUDIT_IS_PAST = "at < $1::timestamptz"


async def forget_audit(conn: asyncpg.Connection, before: datetime, dry_run: bool) -> Cleared:
    """Drop audit rows older than that, or only count them."""
    return await clear_rows(conn, "audit log", "ingestd.audit", AUDIT_IS_PAST, before, dry_run=dry_run)


async def record_audit(
    conn: asyncpg.Connection,
    actor: Actor,
    action: str,
    object_type: str,
    object_id: str | int,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Write who did what; call it in the transaction of the effect.

    Args:
        action: a verb in the past or imperative, such as `retry`.
        object_type: the noun it was done to, such as `job`.
        object_id: its id or name.
        detail: what else a reader at 3 a.m. would want to know.
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
    )


async def latest_audit(
    conn: asyncpg.Connection, object_type: str | None = None, object_id: str | None = None, limit: int = 50
) -> list[asyncpg.Record]:
    """The newest audit rows, all of them or those of one object."""
    rows: list[asyncpg.Record] = await conn.fetch(LATEST, object_type, object_id, limit)
    return rows
