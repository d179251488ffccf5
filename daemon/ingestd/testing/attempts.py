"""One attempt at a job, made by the same code as in a daemon, and what became of it."""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import orjson

from ingestd.events import Bus
from ingestd.jobs.client import Client, use_client
from ingestd.jobs.model import Job, State
from ingestd.jobs.registry import Executor, HandlerSpec
from ingestd.jobs.store import ack as ack_store
from ingestd.jobs.store.ack import PutBack, Result
from ingestd.postgres.codecs import dump_json
from ingestd.postgres.pool import Database
from ingestd.work import runner
from ingestd.work.context import Context
from ingestd.work.endings import PLAIN
from ingestd.work.executors.thread import ThreadExecutor
from ingestd.work.resources import ResourceKeeper


@dataclass(frozen=True, slots=True)
class Ran:
    """How one attempt ended.

    Args:
        id: the job's number; 0 where it was never in a database.
        outcome: `succeeded`, `failed`, `cancelled`, `retrying`, `snoozed`, `waiting` (for its children), or `stale`: the job
            belonged to somebody else by then.
        partial: it succeeded, but not with everything.
        result: what the handler returned or put into `ctx.result`.
        counts: what it counted, or None.
        rejects: what it rejected, or None.
        reason: of a failure or retry, in words.
        error: `{"class", "message", "traceback"}` as history keeps it.
        exception: what the handler raised, itself.
        delay: until it may run again, where it may.
    """

    id: int
    kind: str
    queue: str
    args: Mapping[str, Any]
    attempt: int
    outcome: str
    partial: bool = False
    result: Any = None
    counts: Mapping[str, int] | None = None
    rejects: list[dict[str, Any]] | None = None
    reason: str | None = None
    error: Mapping[str, Any] | None = None
    exception: BaseException | None = None
    delay: timedelta | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it did, wholly or in part."""
        return self.outcome == State.SUCCEEDED

    def check(self) -> Ran:
        """Raise what the handler raised, so that a test shows its traceback; otherwise this again.

        Raises:
            AssertionError: it ended in another way than `succeeded`, without an exception.
        """
        if self.exception is not None:
            raise self.exception
        assert self.succeeded, f"{self.kind} {self.id}: {self.outcome}: {self.reason}"
        return self


class Attempts:
    """Makes attempts, one after the other, in the caller's event loop.

    Args:
        db: open pools, or whatever lends connections in their place.
        stored: the jobs are in a database, and their endings are to be written.
    """

    def __init__(self, db: Database, *, stored: bool = True) -> None:
        self.node = uuid.uuid4()
        self._db = db
        self._stored = stored
        self._bus = Bus()
        self._places = runner.Places(ResourceKeeper(self._bus), {"thread": ThreadExecutor()})

    async def make(self, job: Job, spec: HandlerSpec) -> Ran:
        """Run a claimed job to the end of this attempt."""
        raised: list[BaseException] = []
        spec = _here(spec, raised)
        ctx = Context(job, self._db, self.node, self._bus)
        with use_client(Client(self._db)):
            ending = await runner.run(ctx, spec, self._places)
        if ending is PLAIN:
            # A worker writes these by the batch and without a word; here it is one like any other.
            ending = runner.Ending(Result(job.id, job.claim, State.SUCCEEDED, started_at=ctx.started_at, duration_ms=ctx.elapsed_ms()))
        ran = _ran(ctx, ending, raised[-1] if raised else None)
        if self._stored and ending.write is not None and not await self._write(ending.write):
            return replace(ran, outcome="stale", reason="the job belonged to somebody else by then")
        return ran

    async def close(self) -> None:
        """Let go of threads and resources."""
        await self._places.close()

    async def _write(self, write: Result | PutBack) -> bool:
        async with self._db.services() as conn:
            if isinstance(write, Result):
                return bool(await ack_store.ack(conn, [write]))
            return bool(await ack_store.put_back(conn, [write]))


def _here(spec: HandlerSpec, raised: list[BaseException]) -> HandlerSpec:
    """The same handler in this process, where a debugger reaches it; what it raises is kept as it is."""
    run = spec.run
    if inspect.iscoroutinefunction(run):

        @functools.wraps(run)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            try:
                return await run(*args, **kwargs)
            except Exception as error:
                raised.append(error)
                raise

        return replace(spec, run=wrapped, executor="async", memory_limit=None)

    @functools.wraps(run)
    def wrapped_plain(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except Exception as error:
            raised.append(error)
            raise

    executor: Executor = "async" if spec.executor == "async" else "thread"
    return replace(spec, run=wrapped_plain, executor=executor, memory_limit=None)


def _ran(ctx: Context, ending: runner.Ending, exception: BaseException | None) -> Ran:
    job, write = ctx.job, ending.write
    known: dict[str, Any] = {
        "id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "args": job.args,
        "attempt": job.attempt,
        "exception": exception,
    }
    if isinstance(write, PutBack):
        outcome = "retrying" if write.spent else "waiting" if write.parked else "snoozed"
        error = (write.attempt or {}).get("error")
        return Ran(**known, outcome=outcome, reason=ending.reason, error=error, delay=write.delay)
    result = write if isinstance(write, Result) else ctx.acked
    if result is None:
        return Ran(**known, outcome="stale", reason=ending.reason)
    return Ran(
        **known,
        outcome=str(result.state),
        partial=result.partial,
        # As callers get it: history keeps JSON.
        result=orjson.loads(dump_json(result.result)),
        counts=result.counts,
        rejects=result.rejects,
        reason=result.reason,
        error=result.error,
    )
