"""Handlers in processes of their own: killable, limited in memory, and no harm to others when they die.

Each kind has its own warm children. A child runs one job at a time, with its own interpreter and its own connections.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import orjson

from ingestd.children import ChildDied, ChildProcess, resident_bytes
from ingestd.errors import StaleClaim
from ingestd.events import Bus, Notice
from ingestd.jobs.decorator import JobFunction
from ingestd.jobs.model import State
from ingestd.jobs.registry import HandlerSpec
from ingestd.lines import relayed
from ingestd.logging import present_level
from ingestd.postgres.outage import ConnectionLost
from ingestd.postgres.pool import Database
from ingestd.settings import format_duration
from ingestd.work.context import Context, JobCancelled
from ingestd.work.endings import ArgumentsDoNotFit, AttemptFailed, timed_out
from ingestd.work.executors import messages
from ingestd.work.executors.protocol import Limits
from ingestd.work.rejects import Rejects

MODULE = "ingestd.work.executors.child"
# A module may load a large model.
START_TIMEOUT_S = 300.0
CLOSE_TIMEOUT_S = 5.0
# How long a job may go on after it was told to end.
GRACE_S = 10.0
IDLE_S = 300.0
WATCH_MEMORY_S = 0.1
# What files that were mapped into memory add to what was allocated.
MAPPED = 32 << 20
STACK_WAIT_S = 0.2


def unreachable(spec: HandlerSpec) -> str | None:
    """Why another process cannot find this handler, or None if it can, or need not."""
    if spec.executor != "process":
        return None
    module, name = spec.run.__module__, getattr(spec.run, "__qualname__", "?")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if module != "__main__" and (found.spec.run if isinstance(found, JobFunction) else found) is spec.run:
        return None
    return f'job "{spec.kind}" runs in a process of its own, which cannot import it as {module}.{name}: declare it at the top of a module'


class ProcessExecutor:
    """Runs each attempt in a child of its kind; children start when needed and stay for the next job.

    Args:
        db: this node's pools; children open their own, to the same place.
        bus: told what children say on stderr.
    """

    def __init__(self, db: Database, bus: Bus) -> None:
        self.grace_s = GRACE_S
        self._db = db
        self._bus = bus
        self._idle: dict[str, list[_Child]] = {}
        self._children: set[_Child] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._reaper: asyncio.TimerHandle | None = None

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that live."""
        return [child.process.pid for child in self._children]

    async def run(self, ctx: Context, spec: HandlerSpec, limits: Limits) -> Any:
        """Run one attempt in a child; see `Executor.run`."""
        attempt = _Attempt(ctx, spec, limits, self.grace_s)
        ctx.elsewhere = attempt
        child: _Child | None = None
        good = False
        try:
            child = await self._child_for(ctx, spec)
            end = await attempt.converse(child)
            good = not child.worn(spec)
        finally:
            attempt.over()
            if child is not None:
                self._release(spec.kind, child, good)
        return attempt.outcome(end)

    async def close(self) -> None:
        """End all children: idle ones close what they share first, the others are killed."""
        if self._reaper is not None:
            self._reaper.cancel()
        for idle in self._idle.values():
            for child in idle:
                self._retire(child)
            idle.clear()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await asyncio.gather(*(self._discard(child) for child in tuple(self._children)))

    async def _child_for(self, ctx: Context, spec: HandlerSpec) -> _Child:
        idle = self._idle.get(spec.kind, [])
        while idle:
            child = idle.pop()
            if child.process.alive:
                return child
            await self._discard(child)
        return await self._start(ctx, spec)

    async def _start(self, ctx: Context, spec: HandlerSpec) -> _Child:
        stack_fd = os.memfd_create("stack")
        try:
            process = await ChildProcess.start(
                MODULE,
                str(stack_fd),
                on_words=lambda pid, text: self._bus.emit(Notice(f"{spec.kind}: {text}", "info", {"pid": pid})),
                longest_line=messages.LONGEST,
                env={"MALLOC_ARENA_MAX": "2"},
                pass_fds=(stack_fd,),
            )
        except BaseException:
            os.close(stack_fd)
            raise
        child = _Child(process, stack_fd)
        self._children.add(child)
        try:
            await child.greet(
                {
                    "dsn": self._db.dsn,
                    "direct_dsn": self._db.direct_dsn if self._db.direct_dsn != self._db.dsn else "",
                    "pooled": self._db.pooled,
                    # A rescuer of this node's jobs ends sessions by the beginning of their name.
                    "application_name": f"{self._db.application_name}:process",
                    "path": [str(entry) for entry in sys.path],
                    "module": spec.run.__module__,
                    "name": spec.run.__qualname__,
                    "kind": spec.kind,
                    "node": str(ctx.node),
                    "memory_limit": spec.memory_limit,
                    "log_level": present_level(),
                }
            )
        except BaseException as error:
            await self._discard(child)
            if isinstance(error, ChildDied):
                raise AttemptFailed(_death(error)) from None
            raise
        return child

    def _release(self, kind: str, child: _Child, good: bool) -> None:
        if good:
            child.idle_since = time.monotonic()
            self._idle.setdefault(kind, []).append(child)
            if self._reaper is None:
                self._reaper = asyncio.get_running_loop().call_later(IDLE_S, self._reap)
        else:
            self._retire(child)

    def _reap(self) -> None:
        """Let children go that have had nothing to do for long."""
        self._reaper = None
        for idle in self._idle.values():
            while idle and time.monotonic() - idle[0].idle_since >= IDLE_S:
                self._retire(idle.pop(0))
        if any(self._idle.values()):
            self._reaper = asyncio.get_running_loop().call_later(IDLE_S, self._reap)

    def _retire(self, child: _Child) -> None:
        """End a child beside everything else: the next job need not wait for that."""
        task = asyncio.create_task(self._discard(child, CLOSE_TIMEOUT_S), name=f"end of child {child.process.pid}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _discard(self, child: _Child, timeout_s: float = 0.0) -> None:
        if child.busy or not timeout_s:
            await child.process.stop()
        else:
            await child.process.finish(timeout_s)
        if child in self._children:
            self._children.discard(child)
            os.close(child.stack_fd)


class _Child:
    """One process of one kind."""

    def __init__(self, process: ChildProcess, stack_fd: int) -> None:
        self.process = process
        self.stack_fd = stack_fd
        self.jobs = 0
        self.busy = True
        self.spent = False
        self.idle_since = 0.0

    def worn(self, spec: HandlerSpec) -> bool:
        """Whether a fresh one should take its place."""
        return self.spent or not self.process.alive or self.jobs >= spec.recycle_after

    async def greet(self, hello: dict[str, Any]) -> None:
        """Tell it what it is (over stdin: a command line can be read by others) and wait until it is ready.

        Raises:
            AttemptFailed: it cannot import the handler, or make what that shares.
            ChildDied: it ended.
        """
        await self.process.send({"hello": hello})
        while True:
            message = await self.process.receive(START_TIMEOUT_S)
            if "failed" in message:
                raise AttemptFailed(message["failed"])
            if "ready" in message:
                self.busy = False
                return

    def stack(self) -> str:
        """Where all its threads are, the innermost call first; empty if it does not say so at once."""
        os.ftruncate(self.stack_fd, 0)
        os.lseek(self.stack_fd, 0, os.SEEK_SET)
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGUSR1)
        deadline = time.monotonic() + STACK_WAIT_S
        while os.fstat(self.stack_fd).st_size == 0 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.005)
        return os.pread(self.stack_fd, 16_000, 0).decode("utf-8", "replace")


class _Attempt:
    """One job in one child, and everything that may end it before it does."""

    killable = True

    def __init__(self, ctx: Context, spec: HandlerSpec, limits: Limits, grace_s: float) -> None:
        self._ctx = ctx
        self._spec = spec
        self._limits = limits
        self._grace_s = grace_s
        self._loop = asyncio.get_running_loop()
        self._child: _Child | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._sends: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._late = False
        self._ended = False
        self._verdict: dict[str, Any] | None = None

    async def converse(self, child: _Child) -> dict[str, Any]:
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
            raise AttemptFailed(self._verdict or _death(error)) from None

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

    def stack(self) -> str:
        """Where the child is now."""
        return self._child.stack() if self._child is not None and self._child.process.alive else ""

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


def _death(error: ChildDied) -> dict[str, Any]:
    code = error.code
    message = error.how if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
    return {"class": "ProcessDied", "message": message, "traceback": "\n".join(error.words)}
