"""celery over Redis: a prefork worker of two processes; no result backend, early acknowledgement (its defaults)."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import Any

from celery import Celery
from driver import Driver, Side
from meter import worker_meter

app = Celery("bench", broker=os.environ.get("BENCH_URL", "redis://127.0.0.1"))
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    broker_pool_limit=8,
)
meter = worker_meter()


@app.task(name="noop")
def noop() -> None:
    meter.hit()


@app.task(name="ping")
def ping(sent_ns: int) -> None:
    meter.ping(sent_ns)


class CelerySide(Side):
    """There is no call for many jobs: they go one by one."""

    async def connect(self, url: str, clients: int) -> None:
        app.conf.broker_url = url

    async def many(self, count: int) -> None:
        for _ in range(count):
            noop.apply_async()

    async def one(self) -> None:
        noop.apply_async()

    async def ping(self, sent_ns: int, urgent: bool) -> None:
        ping.apply_async((sent_ns,))


class CeleryDriver(Driver):
    """Its clients are threads."""

    async def _single(self, clients: int, seconds: float) -> dict[str, Any]:
        took: list[int] = []
        noop.apply_async()
        began = time.monotonic_ns()

        def client() -> None:
            now = time.monotonic_ns()
            while now < began + seconds * 1e9:
                noop.apply_async()
                later = time.monotonic_ns()
                took.append(later - now)
                now = later

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        return {"seconds": (time.monotonic_ns() - began) / 1e9, "count": len(took), "took": sorted(took)}


if __name__ == "__main__":
    if sys.argv[1] == "work":
        concurrency = os.environ["BENCH_CONCURRENCY"]
        app.worker_main(
            ["worker", "-P", "prefork", "-c", concurrency, "-l", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        )
    else:
        asyncio.run(CeleryDriver(CelerySide()).run())
