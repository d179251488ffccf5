"""The job kind that refreshes a rollup."""

from __future__ import annotations

from datetime import timedelta

from ingestd.events import RollupRefreshed
from ingestd.jobs.backoff import Backoff
from ingestd.jobs.registry import HandlerSpec
from ingestd.rollups.actions import KIND, QUEUE
from ingestd.rollups.refresh import refresh
from ingestd.work.context import Context


async def run(ctx: Context, name: str) -> None:
    """Refresh what is dirty in a rollup; the buckets and the job's completion commit together.

    Args:
        name: of the rollup.
    """
    async with ctx.transaction() as conn:
        done = await refresh(conn, name)
        ctx.result = {"chunks": done.chunks, "groups": done.groups, "more": done.more, "busy": done.busy}
    if done.chunks:
        ctx.bus.emit(RollupRefreshed(name, done.chunks, done.groups, done.ms))


def handlers() -> list[HandlerSpec]:
    """The kinds of this room."""
    return [HandlerSpec(KIND, run, queue=QUEUE, timeout=timedelta(minutes=30), backoff=Backoff(base_s=2, cap_s=300))]
