"""How an attempt ended, as what is written about it: the one place where outcomes and exceptions become states."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ingestd.errors import StaleClaim
from ingestd.jobs.backoff import stored_backoff
from ingestd.jobs.checks import FARTHEST
from ingestd.jobs.model import PARKED_CHILDREN, AwaitChildren, Discard, Done, Job, Outcome, Retry, Snooze, State
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store.ack import PutBack, Result, without_payload
from ingestd.logging import without_secrets
from ingestd.postgres.outage import ConnectionLost, NoneFree, ServerShort
from ingestd.settings import format_duration, parse_duration
from ingestd.work.context import Context

TRACEBACK_CHARS = 8000
MESSAGE_CHARS = 2000
CLASS_CHARS = 200
HAND_BACK_DELAY = timedelta(seconds=1)
# Where the disk is full there is no haste, and one job's statement may be what fills it.
SHORT_DELAY = timedelta(seconds=30)
# A job that loses its connection more often than that, here and in a row, does so by itself.
MOST_CUT_OFF = 5
UNFORESEEN_DELAY = timedelta(minutes=1)


class Interrupted:
    """Why a running job was cancelled from outside."""

    DRAIN = "drain"
    CANCEL = "cancel"
    LOST = "lost"
    STUCK = "stuck"


class AttemptFailed(Exception):
    """An attempt that ended without its handler's doing, or in another process.

    Args:
        described: `{"class", "message", "traceback"}`.
    """

    def __init__(self, described: dict[str, Any]) -> None:
        super().__init__(described["message"])
        self.described = described


class ArgumentsDoNotFit(Exception):
    """The queued arguments are not what the handler's models ask for."""


@dataclass(frozen=True, slots=True)
class Unkept(Outcome):
    """The handler has done its work elsewhere, and its result cannot be handed over.

    Args:
        why: in words.
    """

    why: str


@dataclass(slots=True)
class Ending:
    """What is to be written about an attempt.

    Args:
        write: the fenced write, or None where the handler's own transaction did it already or nothing may be written.
        reason: a few words for the log.
        cut_off: the job was handed back because its connection was lost.
    """

    write: Result | PutBack | None
    reason: str = ""
    cut_off: bool = False


# A first attempt that succeeded with nothing to say: nearly all of them.
PLAIN = Ending(None, "succeeded")


def after_return(ctx: Context, spec: HandlerSpec, value: Any) -> Ending:
    """The handler returned an outcome, a result, or nothing."""
    if ctx.acked is not None:
        if isinstance(value, Outcome) and not isinstance(value, Done | Unkept):
            ctx.log.error("handler asked for more after its transaction had completed the job", returned=repr(value)[:200])
        return Ending(None, str(ctx.acked.state))
    if value is None or not isinstance(value, Outcome):
        return PLAIN if value is None and ctx.silent else _succeeded(ctx, value)
    outcome = value
    match outcome:
        case Done(result):
            return _succeeded(ctx, result)
        case Unkept(why):
            return Ending(without_payload(ctx.completion(State.SUCCEEDED), why), "succeeded")
        case Retry(reason=reason):
            delay = None if outcome.delay is None else _within_reach(outcome.delay, "Retry")
            return _again_or_failed(ctx, spec, delay, reason, {"class": "Retry", "message": reason})
        case Snooze(until):
            return _put_back(ctx, _delay_until(until), "snoozed")
        case Discard(reason):
            return _failed(ctx, reason, {"class": "Discard", "message": reason})
        case AwaitChildren(checkpoint):
            write = PutBack(ctx.job.id, ctx.job.claim, timedelta(), False, PARKED_CHILDREN, checkpoint)
            return Ending(write, "waits for its children")
    raise AssertionError(f"unknown outcome {outcome!r}")


def after_interruption(ctx: Context, spec: HandlerSpec) -> Ending:
    """Somebody told the job to end, and it did; whatever it made of that, it was not its own failure."""
    why = ctx.interrupted or Interrupted.DRAIN
    if ctx.acked is not None:
        return Ending(None, str(ctx.acked.state))
    if why == Interrupted.LOST:
        return Ending(None, "its claim is gone")
    if why == Interrupted.CANCEL:
        return Ending(ctx.completion(State.CANCELLED, reason="cancelled while running"), "cancelled")
    if why == Interrupted.STUCK:
        message = f"stuck: it showed no progress and was ended after {format_duration(timedelta(milliseconds=ctx.elapsed_ms()))}"
        return _again_or_failed(ctx, spec, None, message, {"class": "stuck", "message": message})
    return _put_back(ctx, timedelta(), "handed back")


def after_error(ctx: Context, spec: HandlerSpec, error: BaseException) -> Ending:
    """The handler raised, or its attempt was ended for it."""
    described = _without_secrets(error.described) if isinstance(error, AttemptFailed) else describe(error)
    if ctx.acked is not None:
        # The job is complete and committed; what came after is only worth a log line.
        ctx.log.error("handler raised after its transaction had committed", error=described["message"])
        return Ending(None, str(ctx.acked.state))
    if isinstance(error, StaleClaim):
        return Ending(None, "its claim is gone")
    lost = isinstance(error, ConnectionLost)
    if isinstance(error, NoneFree) or (lost and ctx.cut_off < MOST_CUT_OFF):
        # Not the job's failure: no attempt is spent.
        ending = _put_back(ctx, SHORT_DELAY if isinstance(error, ServerShort) else HAND_BACK_DELAY, described["message"])
        ending.cut_off = lost
        return ending
    return _again_or_failed(ctx, spec, None, _in_words(described), described)


def unfit(ctx: Context, reason: str) -> Ending:
    """The queued arguments do not fit the handler: it is not run, and no retry would help."""
    return _failed(ctx, reason, {"class": "ArgumentsDoNotFit", "message": reason})


def timed_out(limit: timedelta) -> AttemptFailed:
    """The attempt was over its time and ended when it was told to."""
    return AttemptFailed({"class": "TimedOut", "message": f"timed out after {format_duration(limit)}"})


def give_back(job: Job) -> PutBack:
    """Return a job that was claimed and not started."""
    return PutBack(job.id, job.claim, timedelta(), spent=False)


def unforeseen(job: Job, error: Exception) -> Ending:
    """Nobody could tell how the attempt ended: it has failed, and spent an attempt, or it would be tried for ever."""
    message = f"its ending could not be told: {type(error).__name__}: {error}"[:MESSAGE_CHARS]
    if job.attempt < job.max_attempts:
        return Ending(PutBack(job.id, job.claim, UNFORESEEN_DELAY, spent=True), message)
    described = {"class": type(error).__name__, "message": message}
    return Ending(Result(job.id, job.claim, State.FAILED, reason=message, error=described), message)


def _in_words(described: Mapping[str, Any]) -> str:
    """The message; with the class before it where it says little alone, as `'id'` of a KeyError does."""
    name, message = described["class"], str(described["message"])
    plain = (" " in message and name != "ProcessDied") or message == name
    return message if plain else f"{name}: {message}"


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as it is kept: class, message and traceback, each capped and without secrets; never raises, whatever was raised."""
    name = _class_name(error)
    try:
        message = str(error) or name
    except BaseException as second:  # noqa: BLE001 - its own __str__ may do anything, sys.exit() as well, which would end the daemon
        message = f"{name}, which cannot say more: its text raises {_class_name(second)}"
    try:
        lines = "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001 - so may its notes and its causes
        lines = "".join(traceback.format_tb(error.__traceback__))
    # Before it is cut: half of a secret is not known as one.
    return {
        "class": name,
        "message": without_secrets(message)[:MESSAGE_CHARS],
        "traceback": without_secrets(lines)[-TRACEBACK_CHARS:],
    }


def _class_name(error: BaseException) -> str:
    # Not by `__name__`: a metaclass may make that anything.
    name: str = type.__dict__["__name__"].__get__(type(error))
    return name[:CLASS_CHARS]


def _without_secrets(described: Mapping[str, Any]) -> dict[str, Any]:
    """An error as another process described it, which does not know our secrets."""
    return {name: without_secrets(value) if isinstance(value, str) else value for name, value in described.items()}


def _succeeded(ctx: Context, result: Any) -> Ending:
    job = ctx.job
    if job.attempt > 1 or ctx.usage is not None or ctx.tally is not None or ctx.rejects is not None:
        done = ctx.completion(State.SUCCEEDED, result=result)
        # A first success has nothing to tell that the job's own columns do not, unless it was measured.
        if job.attempt == 1 and ctx.usage is None:
            done.attempt = None
        return Ending(done, "succeeded")
    kept = ctx.result if result is None else result
    return Ending(
        Result(job.id, job.claim, State.SUCCEEDED, result=kept, started_at=ctx.started_at, duration_ms=ctx.elapsed_ms()), "succeeded"
    )


def _again_or_failed(ctx: Context, spec: HandlerSpec, delay: timedelta | None, reason: str, error: dict[str, Any]) -> Ending:
    if ctx.job.attempt >= ctx.job.max_attempts:
        return _failed(ctx, f"attempt {ctx.job.attempt} of {ctx.job.max_attempts}: {reason}", error)
    write = PutBack(
        ctx.job.id,
        ctx.job.claim,
        delay if delay is not None else stored_backoff(ctx.job.backoff, spec.backoff).delay(ctx.job.attempt),
        spent=True,
        attempt=ctx.attempt_entry("retry", error),
    )
    return Ending(write, reason)


def _failed(ctx: Context, reason: str, error: dict[str, Any]) -> Ending:
    return Ending(ctx.completion(State.FAILED, reason=reason[:MESSAGE_CHARS], error=error), reason)


def _put_back(ctx: Context, delay: timedelta, reason: str) -> Ending:
    return Ending(PutBack(ctx.job.id, ctx.job.claim, delay, spent=False), reason)


def _delay_until(until: datetime | timedelta | str) -> timedelta:
    if isinstance(until, datetime):
        moment = until if until.tzinfo else until.replace(tzinfo=UTC)
        return _within_reach(max(moment - datetime.now(UTC), timedelta()), "Snooze")
    return _within_reach(parse_duration(until), "Snooze")


def _within_reach(delay: timedelta, outcome: str) -> timedelta:
    # Postgres counts to the year 294276 and Python to 9999: one job behind that, and no list that it is in can be read.
    if delay > FARTHEST:
        raise ValueError(f"{outcome} for longer than 100 years")
    return delay
