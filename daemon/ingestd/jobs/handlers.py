"""The job kind of the queue itself: `bulk`, one thing done to many jobs."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import asyncpg

from ingestd.jobs.backoff import Backoff
from ingestd.jobs.bulk import KIND, advance, bulk_of, mark_of
from ingestd.jobs.model import Job
from ingestd.jobs.registry import HandlerSpec

ATTEMPTS = 20


class Stepping(Protocol):
    """What is used here of the context that every handler is given."""

    job: Job
    result: Any

    def step(self, checkpoint: Any) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """A fenced commit together with a checkpoint."""

    def progress(self, fraction: float | None, text: str = "") -> None:
        """Show how far the job is."""


def handlers() -> list[HandlerSpec]:
    """The kind `bulk`."""
    return [HandlerSpec(KIND, run_bulk, queue="maintenance", max_attempts=ATTEMPTS, backoff=Backoff(2.0, 2.0, 60.0))]


async def run_bulk(ctx: Stepping, **args: Any) -> dict[str, int]:
    """Go through all jobs that match, a chunk a commit; after a crash it goes on behind the last one."""
    bulk, until = bulk_of(args, ctx.job.correlation_id)
    mark = mark_of(ctx.job.checkpoint)
    while mark.arm is not None:
        checkpoint: dict[str, Any] = {}
        async with ctx.step(checkpoint) as conn:
            mark = await advance(conn, bulk, until, mark)
            checkpoint |= mark.as_json()
        # kept even when somebody cancels the bulk itself
        ctx.result = mark.counts()
        seen = mark.changed + mark.skipped + len(mark.left)
        expected = max(int(args.get("expected") or 0), seen, 1)
        ctx.progress(seen / expected, f"{bulk.action}: {mark.changed} of about {expected}")
    return mark.counts()
