"""procrastinate: batch_defer; a worker with LISTEN and a concurrency of 20."""

from __future__ import annotations

import asyncio
import os
import sys

from driver import Side, serve
from meter import worker_meter
from procrastinate import App, PsycopgConnector

POOL = 8
meter = worker_meter()


def make_app(url: str, pool: int) -> App:
    app = App(connector=PsycopgConnector(conninfo=url, min_size=min(pool, 4), max_size=pool))

    @app.task(name="noop")
    async def noop() -> None:
        meter.hit()

    @app.task(name="ping")
    async def ping(sent_ns: int) -> None:
        meter.ping(sent_ns)

    @app.task(name="filler")
    async def filler() -> None:
        pass

    return app


class Procrastinate(Side):
    async def connect(self, url: str, clients: int) -> None:
        self.app = make_app(url, min(clients, POOL))
        self.noop = self.app.tasks["noop"]
        await self.app.open_async()

    async def setup(self) -> None:
        await self.app.schema_manager.apply_schema_async()

    async def many(self, count: int) -> None:
        await self.noop.batch_defer_async(*[{}] * count)

    async def one(self) -> None:
        await self.noop.defer_async()

    async def ping(self, sent_ns: int, urgent: bool) -> None:
        await self.app.configure_task("ping", priority=10 if urgent else 0).defer_async(sent_ns=sent_ns)

    async def templates(self) -> None:
        await self.app.configure_task("filler", priority=-10).defer_async()
        await self.app.configure_task("filler", schedule_in={"days": 1}).defer_async()

    async def close(self) -> None:
        await self.app.close_async()


async def work() -> None:
    concurrency = int(os.environ["BENCH_CONCURRENCY"])
    app = make_app(os.environ["BENCH_URL"], concurrency + 2)
    async with app.open_async():
        await app.run_worker_async(concurrency=concurrency)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        asyncio.run(work())
    else:
        serve(Procrastinate())
