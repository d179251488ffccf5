"""One job in one child process, and everything that may end it before it does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import orjson

from ingestd.children import ChildDied, ChildProcess, resident_bytes
from ingestd.errors import StaleClaim
from ingestd.jobs.model import State
from ingestd.jobs.registry import HandlerSpec
from ingestd.lines import relayed
from ingestd.postgres.outage import ConnectionLost, ServerShort
from ingestd.settings import format_duration
from ingestd.work.context import Context, JobCancelled
from ingestd.work.endings import ArgumentsDoNotFit, AttemptFailed, timed_out
from ingestd.work.executors import messages
from ingestd.work.executors.protocol import Limits
from ingestd.work.executors.warm_child import WarmChild, death_of
from ingestd.work.rejects import Rejects

WATCH_MEMORY_S = 0.1
# What files that were mapped into memory add to what was allocated.
MAPPED = 32 << 20


class Attempt:
    """One job in one child, and everything that may end it before it does."""

    killable = True

    def __init__(self, ctx: Context, spec: HandlerSpec, limits: Limits, grace_s: float) -> None:
        self._ctx = ctx
        self._spec = spec
        self._limits = limits
        self._grace_s = grace_s
        self._loop = asyncio.get_running_loop()
        self._child: WarmChild | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._sends: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._late = False
        self._ended = False
        self._verdict: dict[str, Any] | None = None

    async def converse(self, child: WarmChild) -> dict[str, Any]:
        """Give the child the job and listen until it has ended.

        Raises:
            AttemptFailed: the child ended before the job.
        """
        if self._stopped:
            raise JobCancelled("it was cancelled before it began")
        ctx, first = self._ctx, self._limits.first
        child.jobs += 1
        child.busy = True
        self._child = child
        child.process.work_for_caller()
        self._set_timers()
        job = {
            "facts": messages.job_to_json(ctx.job),
            "started": ctx.started,
            "began": ctx.began,
            "limit_s": first.total_seconds() if first is not None else None,
        }
        try:
            await child.process.send({"job": job})
            while True:
                message = await child.process.receive()
                if "progress" in message:
                    ctx.show(*message["progress"])
                elif "log" in message:
                    relayed(message["log"])
                elif "acked" in message:
                    state, result, partial, reason = message["acked"]
                    ctx.completed_elsewhere(State(state), orjson.loads(result), partial=partial, reason=reason)
                elif "end" in message:
                    child.busy = False
                    end: dict[str, Any] = message["end"]
                    child.spent = end.get("as") == "memory"
                    return end
        except ChildDied as error:
            raise AttemptFailed(self._verdict or death_of(error)) from None

    def stop(self) -> None:
        """Tell it to end, and kill it if it does not."""
        if self._stopped:
            return
        self._stopped = True
        if self._child is not None and not self._ended:
            told = asyncio.create_task(self._tell_cancelled(self._child.process), name="tell child")
            self._sends.add(told)
            told.add_done_callback(self._sends.discard)
            self._timers.append(self._loop.call_later(self._grace_s, self._kill, self._over_grace()))

    async def stack(self) -> str:
        """Where the child is now."""
        return await self._child.stack() if self._child is not None and self._child.process.alive else ""

    def over(self) -> None:
        """Nothing may end it any more."""
        self._ended = True
        for timer in self._timers:
            timer.cancel()

    def outcome(self, end: dict[str, Any]) -> Any:
        """What the handler returned, with all that it told its context.

        Raises:
            Exception: what became of the handler otherwise.
        """
        ctx = self._ctx
        ctx.usage = end["usage"]
        rejects = end["rejects"]
        ctx.take_over(end["counts"], Rejects(orjson.loads(rejects[0]), rejects[1]) if rejects else None)
        if ctx.acked is None:
            ctx.result = orjson.loads(end["result"])
        if "error" not in end:
            return messages.value_from_json(end["value"])
        error = end["error"]
        match end["as"]:
            case "stale":
                raise StaleClaim(error["message"])
            case "short":
                raise ServerShort(error["message"])
            case "unreachable":
                raise ConnectionLost(error["message"])
            case "unfit":
                raise ArgumentsDoNotFit(error["message"])
            case "cancelled" if self._late and self._limits.soft is not None:
                raise timed_out(self._limits.soft)
            case "cancelled" if self._stopped:
                raise JobCancelled(error["message"])
            case "memory" if self._spec.memory_limit is not None:
                raise AttemptFailed({**self._over_memory(), "traceback": error["traceback"]})
        raise AttemptFailed(error)

    def _set_timers(self) -> None:
        later, soft, hard = self._loop.call_later, self._limits.soft, self._limits.hard
        if soft is not None:
            self._timers.append(later(soft.total_seconds(), self._be_late))
        if hard is not None:
            verdict = {"class": "HardTimeout", "message": f"killed after {format_duration(hard)}, its hard_timeout"}
            self._timers.append(later(hard.total_seconds(), self._kill, verdict))
        if self._spec.memory_limit is not None:
            self._watch_memory()

    def _be_late(self) -> None:
        self._late = True
        self.stop()

    def _watch_memory(self) -> None:
        assert self._child is not None
        assert self._spec.memory_limit is not None
        if resident_bytes(self._child.process.pid) > self._spec.memory_limit + MAPPED:
            self._kill(self._over_memory())
        elif not self._ended:
            self._timers[:] = [timer for timer in self._timers if not timer.cancelled() and timer.when() > self._loop.time()]
            self._timers.append(self._loop.call_later(WATCH_MEMORY_S, self._watch_memory))

    def _kill(self, verdict: dict[str, Any]) -> None:
        if self._child is not None and not self._ended:
            self._verdict = self._verdict or verdict
            self._child.process.kill()

    def _over_memory(self) -> dict[str, Any]:
        limit = (self._spec.memory_limit or 0) / (1 << 20)
        return {"class": "MemoryLimit", "message": f"it needed more than its memory_limit of {limit:g} MB"}

    def _over_grace(self) -> dict[str, Any]:
        grace = format_duration(timedelta(seconds=self._grace_s))
        if self._late and self._limits.soft is not None:
            told = f"timed out after {format_duration(self._limits.soft)}, and killed: it went on for {grace} more"
            return {"class": "TimedOut", "message": told}
        return {"class": "Killed", "message": f"it went on for {grace} after it was told to end"}

    async def _tell_cancelled(self, process: ChildProcess) -> None:
        with suppress(ChildDied):
            await process.send({"cancel": True})
