"""The shortest statement there is."""

from __future__ import annotations

import asyncpg

PING = "select 1"


async def ping(conn: asyncpg.Connection) -> None:
    """Ask Postgres for an answer, any answer."""
    await conn.fetchval(PING)
