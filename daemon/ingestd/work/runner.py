"""One claimed job: run its handler where it belongs, to its end, whatever that is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from ingestd.jobs.registry import HandlerSpec
from ingestd.work import endings
from ingestd.work.context import Context
from ingestd.work.endings import ArgumentsDoNotFit, Ending, Interrupted, describe, give_back, unforeseen
from ingestd.work.executors import coroutine
from ingestd.work.executors.protocol import Executor, Limits, read_models
from ingestd.work.resources import ResourceKeeper

__all__ = ["Ending", "Interrupted", "Places", "describe", "forget_cancellation", "give_back", "run", "unforeseen"]


@dataclass(frozen=True, slots=True)
class Places:
    """What handlers need that are more than a coroutine.

    Args:
        resources: what modules share among their handlers.
        executors: where handlers run that do not run on the event loop, by name.
    """

    resources: ResourceKeeper
    executors: Mapping[str, Executor]

    async def close(self) -> None:
        """Give up what still runs elsewhere, and close what handlers shared."""
        for executor in self.executors.values():
            await executor.close()
        await self.resources.close()


async def run(ctx: Context, spec: HandlerSpec, places: Places) -> Ending:
    """Run one attempt to its end; never raises.

    Args:
        ctx: whoever tells the attempt to end sets its `interrupted` before.
        places: for handlers that are more than a coroutine.
    """
    job = ctx.job
    try:
        unfit = spec.unfit(job.args)
        if unfit:
            return endings.unfit(ctx, unfit)
        if spec.plain and job.timeout is None and job.hard_timeout is None:
            return endings.after_return(ctx, spec, await spec.run(ctx, **job.args))
        return await _run_with_extras(ctx, spec, places)
    except ArgumentsDoNotFit as error:
        return endings.unfit(ctx, str(error))
    except asyncio.CancelledError as error:
        if ctx.interrupted:
            return endings.after_interruption(ctx, spec)
        # Nobody told it to end: something that it waited for was cancelled, or it cancelled its own task.
        return endings.after_error(ctx, spec, error)
    except BaseException as error:
        # The one place where a handler's exceptions end: sys.exit() or a stray KeyboardInterrupt ends an attempt, not the daemon.
        if isinstance(error, GeneratorExit) and not _on_a_loop():
            # Not the handler's own: Python clears up a coroutine that was left behind, and nothing may be awaited any more.
            raise
        if ctx.interrupted:
            return endings.after_interruption(ctx, spec)
        return endings.after_error(ctx, spec, error)


async def forget_cancellation(task: asyncio.Task[None]) -> None:
    """Take back a cancellation that was meant for a job that has ended, or made by its handler: it would hit the next job, or the slot.

    Args:
        task: the present one.
    """
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    while task.cancelling():
        task.uncancel()


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _run_with_extras(ctx: Context, spec: HandlerSpec, places: Places) -> Ending:
    job = ctx.job
    limits = Limits(job.timeout or spec.timeout, job.hard_timeout or spec.hard_timeout)
    ctx.limit = limits.first
    # A process reads and makes its own.
    if spec.executor != "process":
        if spec.models:
            read_models(ctx, spec)
        if spec.lifespan is not None:
            ctx.resources = await places.resources.of(spec.lifespan)
    if spec.executor == "async":
        value = await coroutine.run(ctx, spec, limits)
    else:
        try:
            value = await places.executors[spec.executor].run(ctx, spec, limits)
        finally:
            # It refers to the context in turn: together they would outlive the job until the collector finds them.
            ctx.elsewhere = None
    return endings.after_return(ctx, spec, value)
