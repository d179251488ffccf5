"""All or nothing, in a transaction that somebody else has begun, by whatever means."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg


@asynccontextmanager
async def all_or_nothing(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """Undo what the block did where it raises; a transaction around it stays open.

    A block of asyncpg's own would refuse a transaction that was begun by a statement.
    """
    if not conn.is_in_transaction():
        async with conn.transaction():
            yield
        return
    await conn.execute("savepoint ingestd")
    try:
        yield
    except BaseException:
        if not conn.is_closed():
            await conn.execute("rollback to savepoint ingestd; release savepoint ingestd")
        raise
    await conn.execute("release savepoint ingestd")
