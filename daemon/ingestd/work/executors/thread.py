"""Plain functions in threads of the daemon.

A thread cannot be stopped: a job that is cancelled or over its time stays ours until its thread has ended, and ends as that did.
The threads are our own and daemonic: those of `asyncio.to_thread` are six on a small machine, and hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from ingestd.jobs.registry import HandlerSpec
from ingestd.work.context import Context, JobCancelled
from ingestd.work.endings import describe, timed_out
from ingestd.work.executors.protocol import Limits
from ingestd.work.stacks import thread_stack
from ingestd.work.synchronous import SyncContext

Work = Callable[[], None]


class ThreadExecutor:
    """Lends a thread to each attempt; threads are made when none is idle, and kept."""

    def __init__(self) -> None:
        self._idle: list[_Thread] = []

    async def run(self, ctx: Context, spec: HandlerSpec, limits: Limits) -> Any:
        """Run one attempt in a thread; see `Executor.run`."""
        loop = asyncio.get_running_loop()
        attempt = _Attempt(ctx, spec, loop)
        ctx.elsewhere = attempt
        thread = self._idle.pop() if self._idle else _Thread()
        variables = contextvars.copy_context()
        thread.give(lambda: variables.run(attempt.run))
        # Back among the idle ones only when the thread is done, also if nobody waits for it any more.
        attempt.done.add_done_callback(lambda _: self._idle.append(thread))
        limit = limits.first
        if limit is not None:
            await asyncio.wait({attempt.done}, timeout=limit.total_seconds())
        late = limit is not None and not attempt.done.done()
        if late:
            attempt.stop()
        try:
            return await asyncio.shield(attempt.done)
        except JobCancelled as error:
            if late and limit is not None:
                raise timed_out(limit) from error
            raise
        finally:
            if attempt.done.done():
                # It holds what the handler raised, whose traceback leads back to the attempt.
                del attempt.done

    async def close(self) -> None:
        """Let idle threads end; one that still works dies with the process."""
        for thread in self._idle:
            thread.give(None)
        self._idle.clear()


class _Attempt:
    """One handler's run in a thread."""

    killable = False

    def __init__(self, ctx: Context, spec: HandlerSpec, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[Any] = loop.create_future()
        self._ctx = ctx
        self._spec = spec
        self._loop = loop
        self._ident: int | None = None

    def stop(self) -> None:
        """Tell it: `ctx.cancelled` is true from now on."""
        self._ctx.cancelled = True

    async def stack(self) -> str:
        """Where the thread is now."""
        return thread_stack(self._ident)

    def run(self) -> None:
        """The thread's part."""
        self._ident = threading.get_ident()
        began = time.thread_time()
        value: Any = None
        failure: BaseException | None = None
        try:
            value = self._spec.run(SyncContext(self._ctx, self._loop), **self._ctx.job.args)
        except (StopIteration, GeneratorExit) as error:
            # A future takes no StopIteration; GeneratorExit out of one would close the coroutine that waits, and its slot with it.
            failure = RuntimeError(f"the handler raised {type(error).__name__}: {describe(error)['message']}")
        except BaseException as error:  # noqa: BLE001 - told to the runner, SystemExit as well: only the handler wants to end
            failure = error
        self._ident = None
        usage: dict[str, float] = {"cpu_ms": round((time.thread_time() - began) * 1000)}
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, value, failure, usage)
        # Its traceback leads back to here.
        del failure

    def _settle(self, value: Any, failure: BaseException | None, usage: dict[str, float]) -> None:
        self._ctx.usage = usage
        if failure is None:
            self.done.set_result(value)
        else:
            self.done.set_exception(failure)
            self.done.exception()  # seen, also where the attempt was given up


class _Thread:
    """A thread that does one thing after the other."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="job thread", daemon=True).start()

    def give(self, work: Work | None) -> None:
        """Have it do this next; None: end."""
        self._work.put(work)

    def _serve(self) -> None:
        while work := self._work.get():
            work()
            # Not kept, with its job and all that this holds, until there is another one.
            del work
