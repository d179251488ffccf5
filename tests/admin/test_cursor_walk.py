"""A walk by cursors meets whatever stays, once each, while others come and go."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres.pool import Database
from tests.admin.conftest import Site
from tests.admin.rows import finish_job


async def walk(site: Site, query: str = "", limit: int = 7) -> list[int]:
    seen: list[int] = []
    cursor = None
    while True:
        page = await site.get(f"/api/v1/jobs?limit={limit}{query}" + (f"&cursor={cursor}" if cursor else ""))
        seen += [int(item["id"]) for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return seen


@pytest.mark.parametrize("query", ["", "&kind=sync_prices"])
async def test_what_stays_is_seen_once(site: Site, db: Database, conn: asyncpg.Connection, query: str) -> None:
    stays = await enqueue(conn, [NewJob("sync_prices") for _ in range(60)])
    goes = await enqueue(conn, [NewJob("sync_prices") for _ in range(30)])
    stays += await enqueue(conn, [NewJob("sync_prices") for _ in range(60)])
    over = asyncio.Event()

    async def churn() -> None:
        luck = random.Random(11)
        left = list(goes)
        while not over.is_set():
            async with db.services() as other:
                left += await enqueue(other, [NewJob("sync_prices") for _ in range(luck.randint(0, 3))])
                gone = left.pop(luck.randrange(len(left))) if left else None
                await other.execute("delete from ingestd.job where id = $1", gone)
                # One that is finished moves to another table, and must be met there or here, not in both.
                await finish_job(other, finished.pop()) if finished else None

    finished = [stays[i] for i in range(0, 120, 3)]
    churning = asyncio.create_task(churn())
    try:
        walks = [await walk(site, query) for _ in range(3)]
    finally:
        over.set()
        await churning
    for seen in walks:
        assert len(seen) == len(set(seen))
        assert set(stays) <= set(seen)
        assert seen == sorted(seen, reverse=True)
