"""The process that runs one kind's handler: one job after another, each with a context like the daemon's own.

To it: {"hello": {…}} once, then {"job": {…}} whenever the last one was answered, and {"cancel": true} in between.
From it: {"ready": pid} or {"failed": {…}}; {"progress": [fraction, text]}, {"log": [level, event, logger, fields]}, {"acked": […]} when its
transaction has completed the job, and {"end": {…}} for each job.
The end of stdin is the order to close what handlers share, and to end.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import inspect
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from ingestd.cause import on_behalf_of
from ingestd.children import Line, become_child, next_message, open_stdin, resident_bytes
from ingestd.errors import StaleClaim
from ingestd.events import Bus
from ingestd.jobs.client import Client, use_client
from ingestd.jobs.decorator import JobFunction
from ingestd.jobs.lifespan import lifespan_of
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store.ack import NO_JSON, Result
from ingestd.lines import RelayOutput
from ingestd.logging import put_out
from ingestd.postgres.codecs import dump_json
from ingestd.postgres.outage import ConnectionLost, NoneFree, ServerShort
from ingestd.postgres.pool import Database, PoolSizes
from ingestd.work.context import Context, JobCancelled
from ingestd.work.endings import ArgumentsDoNotFit, describe
from ingestd.work.executors import messages
from ingestd.work.executors.protocol import Limits, read_models
from ingestd.work.executors.thread import ThreadExecutor

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def main() -> None:
    """Entry point: `python -m ingestd.work.executors.child PARENT_PID STACK_FD`."""
    line = become_child(int(sys.argv[1]))
    faulthandler.enable()
    # Answered by C code: also by a process that holds its own interpreter lock.
    faulthandler.register(signal.SIGUSR1, file=int(sys.argv[2]), all_threads=True)
    asyncio.run(_serve(line))


async def _serve(line: Line) -> None:
    reader = await open_stdin(messages.LONGEST)
    hello = await next_message(reader)
    if hello is None:
        return
    put_out(RelayOutput(lambda said: line.send({"log": said})), hello["hello"]["log_level"])
    async with AsyncExitStack() as stack:
        try:
            workshop = await _Workshop.open(hello["hello"], line, stack)
        except BaseException as error:  # noqa: BLE001 - a user's module may raise anything while it is imported
            line.send({"failed": describe(error)})
            return
        line.send({"ready": os.getpid()})
        task: asyncio.Task[None] | None = None
        while (message := await next_message(reader)) is not None:
            if "job" in message:
                task = asyncio.create_task(workshop.work(message["job"]), name="job")
            elif "cancel" in message:
                workshop.cancel(task)
        if task is not None and not task.done():
            # The parent hung up in the middle of a job: nobody is left to hear of it, and it must not go on.
            os._exit(0)
        # A close that hangs is ended by the parent.
    os._exit(0)


class _Workshop:
    """What one process has: the handler, its resources, its connections."""

    def __init__(self, spec: HandlerSpec, resources: Mapping[str, Any], db: Database, node: UUID, line: Line) -> None:
        self._spec = spec
        self._resources = resources
        self._db = db
        self._client = Client(db)
        self._node = node
        self._line = line
        self._waits = inspect.iscoroutinefunction(spec.run)
        self._threads = ThreadExecutor()
        self._ctx: Context | None = None

    @classmethod
    async def open(cls, hello: Mapping[str, Any], line: Line, stack: AsyncExitStack) -> _Workshop:
        """Find the handler, make what it shares, be ready to connect."""
        sys.path[:] = hello["path"]
        handler: Any = importlib.import_module(hello["module"])
        for name in hello["name"].split("."):
            handler = getattr(handler, name)
        run = handler.spec.run if isinstance(handler, JobFunction) else handler
        spec = HandlerSpec(hello["kind"], run, executor="process", lifespan=lifespan_of(hello["module"]))
        resources = await stack.enter_async_context(spec.lifespan.open()) if spec.lifespan else {}
        db = Database(
            hello["dsn"],
            application_name=hello["application_name"],
            sizes=PoolSizes(1, 1, 1),
            direct_dsn=hello["direct_dsn"],
            pooled=hello["pooled"],
        )
        await db.open()
        stack.push_async_callback(db.close)
        if hello["memory_limit"] is not None:
            # Private memory only: what is merely reserved or shared with others does not count.
            resource.setrlimit(resource.RLIMIT_DATA, (hello["memory_limit"], resource.RLIM_INFINITY))
        return cls(spec, resources, db, UUID(hello["node"]), line)

    def cancel(self, task: asyncio.Task[None] | None) -> None:
        """Tell the job to end."""
        if self._ctx is not None:
            self._ctx.cancelled = True
        if self._waits and task is not None:
            task.cancel()

    async def work(self, message: Mapping[str, Any]) -> None:
        """Run one job and tell how it ended."""
        ctx = Context(messages.job_from_json(message["facts"]), self._db, self._node, Bus(), self._line.progress)
        ctx.started, ctx.began = message["started"], message["began"]
        ctx.limit = None if message["limit_s"] is None else timedelta(seconds=message["limit_s"])
        ctx.resources = self._resources
        ctx.on_acked = self._tell_acked
        on_behalf_of(ctx.job)
        self._ctx = ctx
        _forget_peak()
        began = time.process_time()
        answer = await self._outcome(ctx)
        self._ctx = None
        rejects = ctx.rejects
        self._line.send(
            {
                "end": {
                    **answer,
                    "usage": {"cpu_ms": round((time.process_time() - began) * 1000), "peak_rss_mb": round(_peak_bytes() / (1 << 20), 1)},
                    "counts": ctx.tally,
                    "rejects": [dump_json(rejects.kept), rejects.total] if rejects else None,
                }
            }
        )

    def _tell_acked(self, result: Result) -> None:
        """At once: whoever is killed from now on has done its job."""
        self._line.send({"acked": [str(result.state), dump_json(result.result), result.partial, result.reason]})

    async def _outcome(self, ctx: Context) -> dict[str, Any]:
        try:
            read_models(ctx, self._spec)
            with use_client(self._client):
                if self._waits:
                    value = await self._spec.run(ctx, **ctx.job.args)
                else:
                    value = await self._threads.run(ctx, self._spec, Limits(None, None))
            return messages.ending_to_json(value, ctx.result)
        except BaseException as error:  # noqa: BLE001 - told to the daemon, which knows what becomes of it
            with suppress(*NO_JSON):
                return {"error": describe(error), "as": _sort(error), "result": dump_json(ctx.result)}
            return {"error": describe(error), "as": _sort(error), "result": "null"}


def _sort(error: BaseException) -> str:
    match error:
        case StaleClaim():
            return "stale"
        case ServerShort():
            return "short"
        case NoneFree() | ConnectionLost():
            return "unreachable"
        case JobCancelled() | asyncio.CancelledError():
            return "cancelled"
        case MemoryError():
            return "memory"
        case ArgumentsDoNotFit():
            return "unfit"
    return "error"


def _forget_peak() -> None:
    with suppress(OSError):
        CLEAR_REFS.write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resident_bytes()


if __name__ == "__main__":
    main()
