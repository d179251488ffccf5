"""Jobs of a user, as their module has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ingestd import Backoff, Context, Discard, Done, Retry, Snooze, job, lifespan
from ingestd.jobs.model import NewJob


@lifespan
async def resources() -> AsyncIterator[dict[str, str]]:
    yield {"currency": "EUR"}


@job("price", max_attempts=3, backoff=Backoff(base_s=60, factor=1, jitter=0))
async def price(ctx: Context, supplier: str) -> None:
    async with ctx.transaction() as conn:
        await conn.execute("create table if not exists public.price (supplier text)")
        await conn.execute("insert into public.price values ($1)", supplier)
        await ctx.enqueue(NewJob("tell", {"supplier": supplier}), conn=conn)
        ctx.count(succeeded=1)
        ctx.result = {"supplier": supplier, "in": ctx.resources["currency"]}


@job("tell")
def tell(ctx: Any, supplier: str) -> str:
    return f"told {supplier}"


@job("fan")
async def fan(ctx: Context, suppliers: list[str]) -> Done:
    for supplier in suppliers:
        await tell.enqueue(supplier=supplier)
    return Done({"told": len(suppliers)})


@job("flaky", max_attempts=3, backoff=Backoff(base_s=60, factor=1, jitter=0))
async def flaky(ctx: Context, works_at: int) -> int:
    if ctx.job.attempt < works_at:
        raise LookupError(f"not yet, attempt {ctx.job.attempt}")
    return ctx.job.attempt


@job("outcome")
async def outcome(ctx: Context, wanted: str) -> Any:
    return {"discard": Discard("no such supplier"), "retry": Retry(after="7s"), "snooze": Snooze("1h"), "done": Done(5)}[wanted]


@job("heavy", executor="process")
def heavy(ctx: Any, n: int) -> int:
    return n * 2


@job("steps")
async def steps(ctx: Context) -> Any:
    if ctx.job.checkpoint is None:
        async with ctx.step({"done": 1}):
            pass
        raise RuntimeError("after the first step")
    return ctx.job.checkpoint


@job("quiet")
async def quiet(ctx: Context) -> None:
    return None


@job("robbed")
async def robbed(ctx: Context) -> None:
    async with ctx.db.services() as conn:
        await conn.execute("update ingestd.job set claim = gen_random_uuid() where id = $1", ctx.job.id)


@job("sleeps")
async def sleeps(ctx: Context) -> None:
    await asyncio.sleep(60)


@job("echo")
async def echo(ctx: Context, what: Any) -> dict[str, Any]:
    return {"type": type(what).__name__, "back": (what,)}


@job("mail", queue="parcels")
async def mail(ctx: Context) -> None: ...


@job("post", queue="letters")
async def post(ctx: Context) -> None: ...
