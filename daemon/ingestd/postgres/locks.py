"""Work that one session in the whole database does at a time, and the clock that all of them share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime

import asyncpg

from ingestd.postgres.outage import OUTAGE

TAKE = "select pg_try_advisory_lock(hashtextextended('ingestd:' || $1, 0))"
GIVE_BACK = "select pg_advisory_unlock(hashtextextended('ingestd:' || $1, 0))"
NOW = "select now()"


@asynccontextmanager
async def alone(conn: asyncpg.Connection, what: str) -> AsyncIterator[bool]:
    """Hold a session's lock for as long as the block lasts; yields False where somebody else holds it.

    Args:
        conn: past any pooler: the lock falls with its session.
        what: names the lock.
    """
    mine = bool(await conn.fetchval(TAKE, what))
    try:
        yield mine
    finally:
        if mine:
            with suppress(*OUTAGE):  # with the session the lock is gone too
                await conn.execute(GIVE_BACK, what)


async def now(conn: asyncpg.Connection) -> datetime:
    """The database's clock."""
    moment: datetime = await conn.fetchval(NOW)
    return moment
