"""pgqueuer: bulk enqueue in one statement; a worker with batch_size 1000, which batches claims and completions."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta

import asyncpg
import uvloop
from driver import Side, serve
from meter import worker_meter
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

POOL = 8


class Pgqueuer(Side):
    async def connect(self, url: str, clients: int) -> None:
        self.pool = await asyncpg.create_pool(url, min_size=min(clients, POOL), max_size=min(clients, POOL))
        self.queries = Queries.from_asyncpg_pool(self.pool)

    async def setup(self) -> None:
        await self.queries.install()

    async def many(self, count: int) -> None:
        await self.queries.enqueue(["noop"] * count, [None] * count, [0] * count)

    async def one(self) -> None:
        await self.queries.enqueue("noop", None)

    async def ping(self, sent_ns: int, urgent: bool) -> None:
        await self.queries.enqueue("ping", str(sent_ns).encode(), 10 if urgent else 0)

    async def templates(self) -> None:
        await self.queries.enqueue("filler", None, -10)
        await self.queries.enqueue("filler", None, 0, timedelta(days=1))

    async def close(self) -> None:
        await self.pool.close()


async def work() -> None:
    meter = worker_meter()
    pgq = PgQueuer(AsyncpgDriver(await asyncpg.connect(os.environ["BENCH_URL"])))

    @pgq.entrypoint("noop")
    async def noop(job: Job) -> None:
        meter.hit()

    @pgq.entrypoint("ping")
    async def ping(job: Job) -> None:
        meter.ping(int(job.payload or b"0"))

    @pgq.entrypoint("filler")
    async def filler(job: Job) -> None:
        pass

    await pgq.run(batch_size=int(os.environ["BENCH_CONCURRENCY"]))


if __name__ == "__main__":
    if sys.argv[1] == "work":
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.run(work())
    else:
        serve(Pgqueuer())
