"""The job kind of the queue itself: `bulk`, one thing done to many jobs."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import asyncpg

from ingestd.jobs.backoff import Backoff
from ingestd.jobs.bulk import KIND, advance, bulk_of, mark_of
from ingestd.jobs.model import Job
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store.bulk import keep_mark

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
    """Go through all jobs that match, a chunk a commit; after a crash it goes on behind the last one.

    The mark is kept among the arguments: unlike a checkpoint they go into history and come back, so that a bulk which somebody
    has cancelled goes on where it stopped when it is retried.
    """
    bulk, until = bulk_of(args, ctx.job.correlation_id)
    mark = mark_of(args.get("mark"))
    while mark.arm is not None:
        # ctx.step fences the whole: with a stale claim neither the chunk nor the mark is written.
        async with ctx.step(None) as conn:
            mark = await advance(conn, bulk, until, mark)
            await keep_mark(conn, ctx.job.id, mark.as_json())
        # kept even when somebody cancels the bulk itself
        ctx.result = mark.counts()
        seen = mark.changed + mark.skipped + len(mark.left)
        expected = max(int(args.get("expected") or 0), seen, 1)
        ctx.progress(seen / expected, f"{bulk.action}: {mark.changed} of about {expected}")
    return mark.counts()
