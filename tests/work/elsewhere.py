"""Handlers that run in processes, where they are imported by name."""

from __future__ import annotations

import asyncio
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel

import ingestd
from ingestd import Backoff, Context, Discard, Retry, SyncContext, job

AT_ONCE = Backoff(base="10ms", jitter=0)


@ingestd.lifespan
async def resources() -> AsyncIterator[dict[str, Any]]:
    sys.stderr.write("resources opened\n")
    yield {"pid": os.getpid(), "opened_in": asyncio.current_task()}
    sys.stderr.write("resources closed\n")


@job("where", executor="process", recycle_after=2)
async def where(ctx: Context, text: str = "") -> dict[str, Any]:
    ctx.progress(0.5, text or "half way")
    ctx.log.info("hello from afar", text=text)
    return {"pid": os.getpid(), "shared": ctx.resources["pid"], "attempt": ctx.job.attempt, "id": ctx.job.id}


@job("measured", executor="process")
def measured(ctx: SyncContext) -> None:
    block = bytearray(60 << 20)
    until = time.process_time() + 0.1
    while time.process_time() < until:
        block[0] = 1


@job("writes", executor="process")
async def writes(ctx: Context, row: int) -> None:
    async with ctx.transaction() as conn:
        await conn.execute("insert into effect values ($1)", row)
        await ctx.enqueue("child", {"row": row}, conn=conn)
        ctx.count(succeeded=1)
        ctx.reject({"row": row}, "too large")
        ctx.result = {"row": row, "big": 10**30}


@job("writes_sync", executor="process")
def writes_sync(ctx: SyncContext, row: int) -> None:
    with ctx.step({"seen": row}) as conn:
        conn.execute("insert into effect values ($1)", row)
    with ctx.transaction() as conn:
        conn.executemany("insert into effect values ($1)", [(row,), (row,)])
        ctx.enqueue("child", {"row": row}, conn=conn)
        ctx.result = {"rows": conn.fetchval("select count(*) from effect")}


@job("dies_late", executor="process")
async def dies_late(ctx: Context) -> None:
    async with ctx.transaction() as conn:
        await conn.execute("insert into effect values (1)")
        ctx.result = {"rows": 1}
    os.kill(os.getpid(), signal.SIGKILL)


@job("asks", executor="process", backoff=AT_ONCE)
async def asks(ctx: Context, how: str) -> Any:
    if ctx.job.attempt > 1:
        return None
    if how == "retry":
        return Retry("10ms", reason="not yet")
    if how == "discard":
        return Discard("never")
    if how == "exit":
        sys.exit(3)
    if how == "half a character":
        raise FileNotFoundError("a\ud800b")
    raise ValueError("no luck")


@job("dies", executor="process", max_attempts=2, backoff=AT_ONCE)
async def dies(ctx: Context, number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    await asyncio.sleep(60)


@job("waits", executor="process", max_attempts=2, backoff=AT_ONCE)
async def waits(ctx: Context) -> dict[str, int]:
    if ctx.job.attempt == 1:
        ctx.progress(None, f"pid {os.getpid()}")
        await asyncio.Event().wait()
    return {"attempt": ctx.job.attempt}


@job("eats", executor="process", memory_limit="150MB", max_attempts=1)
def eats(ctx: SyncContext) -> None:
    kept = []
    while True:
        kept.append(bytearray(10 << 20))


@job("maps", executor="process", memory_limit="150MB", max_attempts=1)
def maps(ctx: SyncContext) -> None:
    shared = mmap.mmap(-1, 400 << 20)  # not the process's own: only who looks from outside sees it
    for page in range(0, len(shared), 4096):
        shared[page] = 1
    while True:
        time.sleep(0.1)


@job("busy", executor="process", hard_timeout="8s", max_attempts=1)
def busy(ctx: SyncContext) -> None:
    ctx.progress(None, "about to be busy")
    re.match(r"(a|a)*$", "a" * 40 + "b")


@job("deaf", executor="process", timeout="300ms", max_attempts=1)
async def deaf(ctx: Context) -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ctx.progress(None, "heard and ignored")


@job("listens", executor="process", timeout="300ms", max_attempts=1)
def listens(ctx: SyncContext) -> None:
    while True:
        time.sleep(0.01)
        ctx.check()


class Order(BaseModel):
    number: int


class Mute:
    """Has no text that could be stored in its place."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def strange(how: str) -> Any:
    """What no JSON can hold, and why."""
    if how == "keys":
        return {(1, 2): 3}
    if how == "mute":
        return [Mute()]
    circle: list[Any] = []
    circle.append(circle)
    return circle


@job("strange_async")
async def strange_async(ctx: Context, how: str, within: bool) -> Any:
    if not within:
        return strange(how)
    async with ctx.transaction() as conn:
        await conn.execute("insert into effect values (1)")
        ctx.result = strange(how)
    return None


@job("strange_thread")
def strange_thread(ctx: SyncContext, how: str, within: bool) -> Any:
    if not within:
        return strange(how)
    with ctx.transaction() as conn:
        conn.execute("insert into effect values (1)")
        ctx.result = strange(how)
    return None


@job("strange_process", executor="process")
async def strange_process(ctx: Context, how: str, within: bool) -> Any:
    return await strange_async(ctx, how, within)


FULL = "do $$ begin raise exception 'could not extend file' using errcode = '{code}'; end $$"


@job("finds_it_full", max_attempts=1)
async def finds_it_full(ctx: Context, code: str) -> None:
    async with ctx.transaction() as conn:
        await conn.execute(FULL.format(code=code))


@job("finds_it_full_far_away", executor="process", max_attempts=1)
async def finds_it_full_far_away(ctx: Context, code: str) -> None:
    async with ctx.step(1) as conn:
        await conn.execute(FULL.format(code=code))


@job("ships", executor="process")
async def ships(ctx: Context, order: Order) -> dict[str, int]:
    return {"number": order.number}


@job("slot_far_away", executor="process")
async def slot_far_away(ctx: Context) -> list[Any] | None:
    return None if ctx.slot is None else [ctx.slot.schedule, ctx.slot.due_at.isoformat(), ctx.slot.catch_up]


@job("slot_in_a_thread")
def slot_in_a_thread(ctx: SyncContext) -> list[Any] | None:
    return None if ctx.slot is None else [ctx.slot.schedule, ctx.slot.due_at.isoformat(), ctx.slot.catch_up]


@job("starts_others", executor="process", max_attempts=1)
def starts_others(ctx: SyncContext, killed: bool) -> None:
    other = subprocess.Popen(["sleep", "600"])
    ctx.progress(0, str(other.pid))
    if killed:
        os.kill(os.getpid(), signal.SIGKILL)
    other.wait()


@job("ends_another", executor="process", max_attempts=1)
def ends_another(ctx: SyncContext, number: int) -> int:
    os.kill(os.getpid(), number)  # this process goes on all the same
    with subprocess.Popen(["sleep", "600"]) as other:
        other.send_signal(number)
        return other.wait(timeout=30)
