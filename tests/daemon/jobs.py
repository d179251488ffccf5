"""Jobs that do what tests need, for daemons of their own: `[daemon] handlers = ["tests.daemon.jobs"]`."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from contextlib import suppress
from pathlib import Path

from ingestd import Context, job
from ingestd.jobs.backoff import Backoff
from tests.faults import ledger

AT_ONCE = Backoff(base_s=0.05, jitter=0)


@job(ledger.KIND, max_attempts=4, backoff=AT_ONCE)
async def enter(ctx: Context) -> None:
    """Leave one row, committed together with the job's completion, after long enough to be killed in between."""
    async with ctx.transaction() as conn:
        await conn.execute(ledger.ENTER, ctx.job.id, ctx.job.attempt, ctx.node)
        await asyncio.sleep(random.uniform(0, 0.1))


@job("until_file", max_attempts=1)
async def until_file(ctx: Context, path: str) -> None:
    """Go on until a file appears, then leave one row."""
    while not Path(path).exists():
        await asyncio.sleep(0.02)
    await ledger.enter(ctx)


@job("returns_on_file", max_attempts=1)
async def returns_on_file(ctx: Context, path: str) -> None:
    """Return with nothing to say, when a file appears."""
    while not Path(path).exists():
        await asyncio.sleep(0.02)


@job("in_transaction", max_attempts=4, backoff=AT_ONCE)
async def in_transaction(ctx: Context, path: str) -> None:
    """Leave one row, then keep the transaction open until a file tells this very run how to end."""
    told = f"{path}-{ctx.job.claim}"
    async with ctx.transaction() as conn:
        await conn.execute(ledger.ENTER, ctx.job.id, ctx.job.attempt, ctx.node)
        Path(f"{told}-begun").touch()
        while not Path(f"{told}-end").exists():
            if Path(f"{told}-fail").exists():
                raise RuntimeError("told to fail")
            await asyncio.sleep(0.02)


@job("nothing")
async def nothing(ctx: Context) -> None:
    """End at once."""


@job("deaf", max_attempts=1)
async def deaf(ctx: Context) -> None:
    """Never end, whoever asks."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


@job("in_thread", max_attempts=1)
def in_thread(ctx: Context) -> None:
    """Sleep where nothing can wake it."""
    time.sleep(60)


@job("blocks", max_attempts=1)
async def blocks(ctx: Context, seconds: float) -> None:
    """Keep the whole event loop from turning, as a careless handler does."""
    time.sleep(seconds)  # noqa: ASYNC251 - on purpose
    await ledger.enter(ctx)


@job("regex", max_attempts=1)
async def regex(ctx: Context, seconds: float, after: str) -> None:
    """Keep the interpreter once a file appears: a regular expression that backtracks runs in C and lets go of nothing until it is done."""
    while not Path(after).exists():
        await asyncio.sleep(0.02)
    length, took = 18, 0.0
    while took < seconds:
        began = time.monotonic()
        re.match(r"(a|a)*$", "a" * length + "b")
        took = time.monotonic() - began
        # Each letter doubles the time.
        length += max(1, min(6, math.ceil(math.log2(seconds / max(took, 1e-6))))) if took < seconds else 0
    await ledger.enter(ctx)


@job("holds_its_row", max_attempts=4, backoff=AT_ONCE)
async def holds_its_row(ctx: Context, path: str) -> None:
    """Leave one row and lock the job's own, then keep the transaction open until a file appears."""
    async with ctx.transaction() as conn:
        await conn.execute(ledger.ENTER, ctx.job.id, ctx.job.attempt, ctx.node)
        await conn.execute("select 1 from ingestd.job where id = $1 for update", ctx.job.id)
        Path(f"{path}-{ctx.node}").touch()
        while not Path(path).exists():
            await asyncio.sleep(0.02)


@job("rude", max_attempts=1)
async def rude(ctx: Context) -> None:
    """Turn a cancellation into an error of its own."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise RuntimeError("I was disturbed") from None
