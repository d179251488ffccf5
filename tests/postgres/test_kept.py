"""A connection that is kept goes back where it came from when nobody uses it."""

from __future__ import annotations

import asyncio

from ingestd.postgres.kept import Kept
from ingestd.postgres.pool import Database
from tests.support import eventually


async def test_what_is_not_used_for_long_goes_back_to_the_pool(db: Database) -> None:
    kept = Kept(db.enqueues, idle_s=0.2)
    async with kept as conn:
        first = conn.get_server_pid()
    assert db._lent["enqueues"]
    await eventually(lambda: not db._lent["enqueues"])
    async with kept as conn:
        assert conn.get_server_pid() == first
    await kept.close()
    assert not db._lent["enqueues"]


async def test_what_is_used_is_kept_however_long(db: Database) -> None:
    kept = Kept(db.enqueues, idle_s=0.1)
    async with kept as conn:
        await asyncio.sleep(0.3)
        assert await conn.fetchval("select 1") == 1
    for _ in range(10):
        async with kept as again:
            assert again is conn
        await asyncio.sleep(0.03)
    await kept.close()
