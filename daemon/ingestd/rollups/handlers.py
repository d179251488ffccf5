"""The job kind that refreshes a rollup."""

from __future__ import annotations

from datetime import timedelta

from ingestd.events import RollupRefreshed
from ingestd.jobs.backoff import Backoff
from ingestd.jobs.model import Outcome, Snooze
from ingestd.jobs.registry import HandlerSpec
from ingestd.rollups.actions import KIND, QUEUE
from ingestd.rollups.refresh import refresh
from ingestd.work.context import Context

BUSY_WAIT = "500ms"


class _Busy(Exception):
    """Another refresh has the rollup."""


async def run(ctx: Context, name: str) -> Outcome | None:
    """Refresh what is dirty in a rollup; the buckets and the job's completion commit together.

    Args:
        name: of the rollup.
    """
    try:
        async with ctx.transaction() as conn:
            done = await refresh(conn, name)
            if done.busy and ctx.job.workflow_run is not None:
                raise _Busy
            ctx.result = {"chunks": done.chunks, "groups": done.groups, "more": done.more, "busy": done.busy}
    except _Busy:
        # The next step counts on what this one says; the refresh under way may have begun before what it is to cover.
        return Snooze(BUSY_WAIT)
    if done.chunks:
        ctx.bus.emit(RollupRefreshed(name, done.chunks, done.groups, done.ms))
    return None


def handlers() -> list[HandlerSpec]:
    """The kinds of this room."""
    return [HandlerSpec(KIND, run, queue=QUEUE, timeout=timedelta(minutes=30), backoff=Backoff(base_s=2, cap_s=300))]
