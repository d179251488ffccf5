"""Handlers on the daemon's own event loop: nothing is faster, and nothing can be killed."""

from __future__ import annotations

import asyncio
from typing import Any

from ingestd.jobs.registry import HandlerSpec
from ingestd.work.context import Context
from ingestd.work.endings import timed_out
from ingestd.work.executors.protocol import Limits


async def run(ctx: Context, spec: HandlerSpec, limits: Limits) -> Any:
    """Run one attempt in the present task; cancelled by its limit.

    Raises:
        AttemptFailed: it was over its time.
        Exception: what the handler raised.
    """
    limit = limits.first
    if limit is None:
        return await spec.run(ctx, **ctx.job.args)
    deadline: asyncio.Timeout | None = None
    try:
        async with asyncio.timeout(limit.total_seconds()) as deadline:
            return await spec.run(ctx, **ctx.job.args)
    except TimeoutError as error:
        # A handler's own TimeoutError is its own affair.
        if deadline is not None and deadline.expired() and ctx.acked is None:
            raise timed_out(limit) from error
        raise
