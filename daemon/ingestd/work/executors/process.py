"""Handlers in processes of their own: killable, limited in memory, and no harm to others when they die.

Each kind has its own warm children. A child runs one job at a time, with its own interpreter and its own connections.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

from ingestd.children import ChildDied, ChildProcess
from ingestd.events import Bus, Notice
from ingestd.jobs.decorator import JobFunction
from ingestd.jobs.registry import HandlerSpec
from ingestd.logging import present_level
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from ingestd.work.endings import AttemptFailed
from ingestd.work.executors import messages
from ingestd.work.executors.process_attempt import Attempt
from ingestd.work.executors.protocol import Limits
from ingestd.work.executors.warm_child import WarmChild, death_of

MODULE = "ingestd.work.executors.child"
CLOSE_TIMEOUT_S = 5.0
# How long a job may go on after it was told to end.
GRACE_S = 10.0
IDLE_S = 300.0


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
        self._idle: dict[str, list[WarmChild]] = {}
        self._children: set[WarmChild] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._reaper: asyncio.TimerHandle | None = None

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that live."""
        return [child.process.pid for child in self._children]

    async def run(self, ctx: Context, spec: HandlerSpec, limits: Limits) -> Any:
        """Run one attempt in a child; see `Executor.run`."""
        attempt = Attempt(ctx, spec, limits, self.grace_s)
        ctx.elsewhere = attempt
        child: WarmChild | None = None
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

    async def _child_for(self, ctx: Context, spec: HandlerSpec) -> WarmChild:
        idle = self._idle.get(spec.kind, [])
        while idle:
            child = idle.pop()
            if child.process.alive:
                return child
            await self._discard(child)
        return await self._start(ctx, spec)

    async def _start(self, ctx: Context, spec: HandlerSpec) -> WarmChild:
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
        child = WarmChild(process, stack_fd)
        self._children.add(child)
        try:
            await child.greet(self._introduction(ctx, spec))
        except BaseException as error:
            await self._discard(child)
            if isinstance(error, ChildDied):
                raise AttemptFailed(death_of(error)) from None
            raise
        return child

    def _introduction(self, ctx: Context, spec: HandlerSpec) -> dict[str, Any]:
        """What a child must know of this process and of the handler."""
        return {
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

    def _release(self, kind: str, child: WarmChild, good: bool) -> None:
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

    def _retire(self, child: WarmChild) -> None:
        """End a child beside everything else: the next job need not wait for that."""
        task = asyncio.create_task(self._discard(child, CLOSE_TIMEOUT_S), name=f"end of child {child.process.pid}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _discard(self, child: WarmChild, timeout_s: float = 0.0) -> None:
        if child.busy or not timeout_s:
            await child.process.stop()
        else:
            await child.process.finish(timeout_s)
        if child in self._children:
            self._children.discard(child)
            os.close(child.stack_fd)
