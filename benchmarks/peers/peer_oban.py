"""oban for Python, the open source edition: enqueue_many; one queue with a limit of 500."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta

import uvloop
from driver import Side, serve
from meter import worker_meter
from oban import Oban, worker
from oban.job import Job
from oban.schema import install

POOL = 8
meter = worker_meter()


@worker(queue="default")
class Noop:
    async def process(self, job: Job) -> None:
        meter.hit()


@worker(queue="default")
class Ping:
    async def process(self, job: Job) -> None:
        meter.ping(job.args["sent_ns"])


@worker(queue="default")
class Filler:
    async def process(self, job: Job) -> None:
        pass


class ObanSide(Side):
    async def connect(self, url: str, clients: int) -> None:
        self.url = url
        self.pool = await Oban.create_pool(url, min_size=min(clients, POOL), max_size=min(clients, POOL) + 1)
        self.oban = Oban(pool=self.pool)

    async def setup(self) -> None:
        await install(self.pool)

    async def many(self, count: int) -> None:
        await self.oban.enqueue_many([Noop.new({}, priority=5) for _ in range(count)])

    async def one(self) -> None:
        await self.oban.enqueue(Noop.new({}, priority=5))

    async def ping(self, sent_ns: int, urgent: bool) -> None:
        await self.oban.enqueue(Ping.new({"sent_ns": sent_ns}, priority=0 if urgent else 5))

    async def templates(self) -> None:
        await self.oban.enqueue(Filler.new({}, priority=9))
        await self.oban.enqueue(Filler.new({}, priority=5, scheduled_in=timedelta(days=1)))

    async def close(self) -> None:
        await self.pool.close()


async def work() -> None:
    pool = await Oban.create_pool(os.environ["BENCH_URL"], max_size=10)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Oban(pool=pool, queues={"default": int(os.environ["BENCH_CONCURRENCY"])}):
        await stop.wait()
    await pool.close()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.run(work())
    else:
        serve(ObanSide())
