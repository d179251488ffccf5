"""The jobs of the benchmark as a user of ingestd would write them: `[daemon] handlers = ["bench_jobs"]`."""

from __future__ import annotations

import asyncio
import time

from meter import worker_meter

from ingestd import Context, job

meter = worker_meter()


@job("noop")
async def noop(ctx: Context) -> None:
    """Do nothing, and be counted."""
    meter.hit()


@job("ping")
async def ping(ctx: Context, sent_ns: int) -> None:
    """Note how long ago one was sent."""
    meter.ping(sent_ns)


@job("filler")
async def filler(ctx: Context) -> None:
    """Do nothing."""


@job("pinger")
async def pinger(ctx: Context, count: int, gap_s: float) -> None:
    """Enqueue pings from inside the daemon's own process."""
    for number in range(count):
        await asyncio.sleep(gap_s * (0.75 + 0.5 * ((number * 7) % 11) / 11))
        await ping.enqueue(sent_ns=time.monotonic_ns())
