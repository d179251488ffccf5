"""A job that runs here, as whoever watches over it sees it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from ingestd.jobs.model import Job
from ingestd.work.context import Context
from ingestd.work.lane import Lane
from ingestd.work.stacks import coroutine_stack


@dataclass(slots=True, eq=False)
class Running:
    """A job that runs here.

    Args:
        task: the slot that runs it.
        lane: the queue whose slot that is.
        began: when this attempt began, `time.monotonic()`.
        told_at: when it was told to end, `time.monotonic()`; 0: it was not.
        missing: looks in a row at which the database did not know our claim.
        adrift: it did not end although it was told to; its slot has been replaced, its claim is kept.
        abandoned: handed back although it has not ended; whatever it does now is fenced.
    """

    job: Job
    ctx: Context
    task: asyncio.Task[None]
    lane: Lane
    began: float
    told_at: float = 0.0
    missing: int = 0
    adrift: bool = False
    abandoned: bool = False

    @property
    def told_to_end_at(self) -> float:
        """When it was told to end, by whom or whatever, `time.monotonic()`; 0: it was not, or will only be."""
        if self.ctx.limit is None:
            return self.told_at
        over_at = self.began + self.ctx.limit.total_seconds()
        if over_at > time.monotonic():
            return self.told_at
        return min(over_at, self.told_at or over_at)

    async def stack(self) -> str:
        """Where the job is now, as a traceback's lines; empty where that cannot be told."""
        elsewhere = self.ctx.elsewhere
        return await elsewhere.stack() if elsewhere is not None else coroutine_stack(self.task)
