"""What the tests of clients share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from ingestd import Client


@pytest.fixture
async def client(dsn: str, conn: asyncpg.Connection) -> AsyncIterator[Client]:
    """An open client on a database that knows the kind `sync`."""
    await conn.execute("insert into ingestd.kind (name, queue, priority, max_attempts) values ('sync', 'rollups', 5, 9)")
    async with Client(dsn) as opened:
        yield opened
