"""taskiq over Redis streams: one worker process; 100 enqueues in flight where others have a call for many."""

from __future__ import annotations

import asyncio
import os
import sys

from driver import Side, serve
from meter import worker_meter
from taskiq_redis import RedisStreamBroker

IN_FLIGHT = 100
meter = worker_meter()
broker = RedisStreamBroker(os.environ.get("BENCH_URL", "redis://127.0.0.1"))


async def noop() -> None:
    meter.hit()


async def ping(sent_ns: int) -> None:
    meter.ping(sent_ns)


broker.register_task(noop, task_name="noop")
broker.register_task(ping, task_name="ping")


class Taskiq(Side):
    async def connect(self, url: str, clients: int) -> None:
        self.broker = RedisStreamBroker(url)
        self.noop = self.broker.register_task(noop, task_name="noop")
        self.pinged = self.broker.register_task(ping, task_name="ping")
        await self.broker.startup()

    async def many(self, count: int) -> None:
        for start in range(0, count, IN_FLIGHT):
            await asyncio.gather(*(self.noop.kiq() for _ in range(min(IN_FLIGHT, count - start))))

    async def one(self) -> None:
        await self.noop.kiq()

    async def ping(self, sent_ns: int, urgent: bool) -> None:
        await self.pinged.kiq(sent_ns)

    async def close(self) -> None:
        await self.broker.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        from taskiq.__main__ import main

        # The broker itself is imported again by the worker process that taskiq starts.
        sys.argv = [
            "taskiq", "worker", "peer_taskiq:broker", "--workers", "1", "--max-async-tasks", os.environ["BENCH_CONCURRENCY"],
            "--max-prefetch", os.environ["BENCH_CONCURRENCY"], "--log-level", "ERROR",
        ]  # fmt: skip
        main()
    else:
        serve(Taskiq())
