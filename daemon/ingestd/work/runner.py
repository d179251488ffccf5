"""One claimed job: run its handler, turn how it ended into what is written about it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ingestd.errors import StaleClaim
from ingestd.jobs.backoff import stored_backoff
from ingestd.jobs.model import PARKED_CHILDREN, AwaitChildren, Discard, Done, Job, Outcome, Retry, Snooze, State
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store.ack import PutBack, Result
from ingestd.postgres.pool import ConnectionLost, NoneFree
from ingestd.settings import parse_duration
from ingestd.work.context import Context

TRACEBACK_CHARS = 8000
MESSAGE_CHARS = 2000
HAND_BACK_DELAY = timedelta(seconds=1)


class Interrupted:
    """Why a running job was cancelled from outside."""

    DRAIN = "drain"
    CANCEL = "cancel"
    LOST = "lost"
    STUCK = "stuck"


@dataclass(slots=True)
class Ending:
    """What is to be written about an attempt.

    Args:
        write: the fenced write, or None where the handler's own transaction did it already or nothing may be written.
        reason: a few words for the log.
    """

    write: Result | PutBack | None
    reason: str = ""


async def run(ctx: Context, spec: HandlerSpec, interrupted: list[str]) -> Ending:
    """Run one attempt to its end; never raises.

    Args:
        interrupted: filled by whoever cancels the task, with one of `Interrupted`, before it does.
    """
    timeout = ctx.job.timeout or spec.timeout
    deadline: asyncio.Timeout | None = None
    try:
        unfit = spec.unfit(ctx.job.args)
        if unfit:
            return _failed(ctx, unfit, {"class": "ArgumentsDoNotFit", "message": unfit})
        if timeout is None:
            return _ending(ctx, spec, await _execute(spec, ctx))
        async with asyncio.timeout(timeout.total_seconds()) as deadline:
            value = await _execute(spec, ctx)
        return _ending(ctx, spec, value)
    except asyncio.CancelledError:
        return _after_cancel(ctx, spec, interrupted)
    except Exception as error:  # noqa: BLE001 - the one place where a handler's exceptions become outcomes
        if interrupted:
            # Whatever a handler makes of being cancelled, it was not its own failure.
            return _after_cancel(ctx, spec, interrupted)
        if deadline is not None and isinstance(error, TimeoutError) and deadline.expired() and ctx.acked is None:
            message = f"timed out after {timeout}"
            return _again_or_failed(ctx, spec, None, message, {"class": "TimedOut", "message": message})
        return _after_error(ctx, spec, error)


async def _execute(spec: HandlerSpec, ctx: Context) -> Any:
    if spec.executor == "thread":
        return await _in_thread(asyncio.to_thread(spec.run, ctx, **ctx.job.args))
    return await spec.run(ctx, **ctx.job.args)


async def _in_thread(work: Coroutine[Any, Any, Any]) -> Any:
    """A thread cannot be stopped: a job that is timed out or cancelled stays ours until it has ended, and ends as its thread did."""
    thread = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait({thread})
        return thread.result()


def _ending(ctx: Context, spec: HandlerSpec, value: Any) -> Ending:
    if ctx.acked is not None:
        return Ending(None, str(ctx.acked.state))
    if not isinstance(value, Outcome):
        return _succeeded(ctx, value if value is not None else ctx.result)
    outcome = value
    match outcome:
        case Done(result):
            return _succeeded(ctx, result if result is not None else ctx.result)
        case Retry(reason=reason):
            return _again_or_failed(ctx, spec, outcome.delay, reason, {"class": "Retry", "message": reason})
        case Snooze(until):
            return _put_back(ctx, _delay_until(until), "snoozed", spent=False)
        case Discard(reason):
            return _failed(ctx, reason, {"class": "Discard", "message": reason})
        case AwaitChildren(checkpoint):
            write = PutBack(ctx.job.id, ctx.job.claim, timedelta(), False, PARKED_CHILDREN, checkpoint)
            return Ending(write, "waits for its children")
    raise AssertionError(f"unknown outcome {outcome!r}")


def _after_cancel(ctx: Context, spec: HandlerSpec, interrupted: list[str]) -> Ending:
    why = interrupted[0] if interrupted else Interrupted.DRAIN
    if ctx.acked is not None:
        return Ending(None, str(ctx.acked.state))
    if why == Interrupted.LOST:
        return Ending(None, "its claim is gone")
    if why == Interrupted.CANCEL:
        write = Result(
            ctx.job.id,
            ctx.job.claim,
            State.CANCELLED,
            reason="cancelled while running",
            result=ctx.result,
            counts=ctx.counts,
            started_at=ctx.started_at,
            duration_ms=ctx.elapsed_ms(),
            attempt=ctx.attempt_entry("cancelled"),
        )
        return Ending(write, "cancelled")
    if why == Interrupted.STUCK:
        message = f"stuck: it showed no progress and was ended after {timedelta(milliseconds=ctx.elapsed_ms())}"
        return _again_or_failed(ctx, spec, None, message, {"class": "stuck", "message": message})
    return _put_back(ctx, timedelta(), "handed back", spent=False)


def _after_error(ctx: Context, spec: HandlerSpec, error: Exception) -> Ending:
    described = describe(error)
    if ctx.acked is not None:
        # The job is complete and committed; what came after is only worth a log line.
        ctx.log.error("handler raised after its transaction had committed", error=described["message"])
        return Ending(None, str(ctx.acked.state))
    if isinstance(error, StaleClaim):
        return Ending(None, "its claim is gone")
    if isinstance(error, NoneFree | ConnectionLost):
        # Not the job's failure: no attempt is spent.
        return _put_back(ctx, HAND_BACK_DELAY, described["message"], spent=False)
    return _again_or_failed(ctx, spec, None, described["message"], described)


def _again_or_failed(ctx: Context, spec: HandlerSpec, delay: timedelta | None, reason: str, error: dict[str, Any]) -> Ending:
    if ctx.job.attempt >= ctx.job.max_attempts:
        return _failed(ctx, f"attempt {ctx.job.attempt} of {ctx.job.max_attempts}: {reason}", error)
    backoff = stored_backoff(ctx.job.backoff, spec.backoff)
    write = PutBack(
        ctx.job.id,
        ctx.job.claim,
        delay if delay is not None else backoff.delay(ctx.job.attempt),
        spent=True,
        attempt=ctx.attempt_entry("retry", error),
    )
    return Ending(write, reason)


def _succeeded(ctx: Context, result: Any) -> Ending:
    counts = ctx.counts
    write = Result(
        ctx.job.id,
        ctx.job.claim,
        State.SUCCEEDED,
        partial=bool(counts and counts["failed"]),
        result=result,
        counts=counts,
        started_at=ctx.started_at,
        duration_ms=ctx.elapsed_ms(),
        attempt=ctx.attempt_entry("succeeded") if ctx.job.attempt > 1 else None,
    )
    return Ending(write, "succeeded")


def _failed(ctx: Context, reason: str, error: dict[str, Any]) -> Ending:
    write = Result(
        ctx.job.id,
        ctx.job.claim,
        State.FAILED,
        result=ctx.result,
        error=error,
        reason=reason[:MESSAGE_CHARS],
        counts=ctx.counts,
        started_at=ctx.started_at,
        duration_ms=ctx.elapsed_ms(),
        attempt=ctx.attempt_entry("failed", error),
    )
    return Ending(write, reason)


def give_back(job: Job) -> PutBack:
    """Return a job that was claimed and not started."""
    return PutBack(job.id, job.claim, timedelta(), spent=False)


def _put_back(ctx: Context, delay: timedelta, reason: str, *, spent: bool) -> Ending:
    return Ending(PutBack(ctx.job.id, ctx.job.claim, delay, spent), reason)


def _delay_until(until: datetime | timedelta | str) -> timedelta:
    if isinstance(until, datetime):
        moment = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(moment - datetime.now(UTC), timedelta())
    return parse_duration(until)


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as it is kept: class, message and traceback, each capped."""
    lines = "".join(traceback.format_exception(error))
    return {
        "class": type(error).__name__,
        "message": (str(error) or type(error).__name__)[:MESSAGE_CHARS],
        "traceback": lines[-TRACEBACK_CHARS:],
    }
