"""The context of a plain function: the same things without `await`.

Everything that touches the database or the event loop is handed to the loop's thread, and waited for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import datetime
from typing import Any, TypeVar, overload
from uuid import UUID

import asyncpg

from ingestd.jobs.decorator import JobFunction
from ingestd.jobs.model import Job, NewJob, Slot
from ingestd.work.context import Context

T = TypeVar("T")
Wait = Callable[[Coroutine[Any, Any, Any]], Any]


class SyncContext:
    """The first argument of a handler that is a plain function; `Context` says what each name means.

    Args:
        ctx: the attempt's context.
        loop: where its coroutines run; never the loop of the calling thread.
    """

    def __init__(self, ctx: Context, loop: asyncio.AbstractEventLoop) -> None:
        self._ctx = ctx
        self._loop = loop
        self._inside: set[int] = set()  # threads in a block

    @property
    def job(self) -> Job:
        """The claimed job."""
        return self._ctx.job

    @property
    def slot(self) -> Slot | None:
        """The slot of the schedule that started the job, or None."""
        return self._ctx.slot

    @property
    def node(self) -> UUID:
        """This node's UUID."""
        return self._ctx.node

    @property
    def log(self) -> Any:
        """A structlog logger bound to the job."""
        return self._ctx.log

    @property
    def resources(self) -> Mapping[str, Any]:
        """What the module's `@lifespan` yielded."""
        return self._ctx.resources

    @property
    def result(self) -> Any:
        """The job's result, a JSON value."""
        return self._ctx.result

    @result.setter
    def result(self, value: Any) -> None:
        self._ctx.result = value

    @property
    def deadline(self) -> datetime | None:
        """When this attempt is told to end, or None."""
        return self._ctx.deadline

    @property
    def remaining(self) -> float | None:
        """Seconds until `deadline`, not below 0; None without one."""
        return self._ctx.remaining

    @property
    def cancelled(self) -> bool:
        """Whether the attempt was cancelled or is over its time."""
        return self._ctx.cancelled

    def check(self) -> None:
        """End here if the attempt was cancelled or is over its time.

        Raises:
            JobCancelled: it is; let it pass.
        """
        self._ctx.check()

    def progress(self, fraction: float | None, text: str = "") -> None:
        """Show how far the job is."""
        self._ctx.progress(fraction, text)

    def count(self, *, succeeded: int = 0, failed: int = 0, skipped: int = 0) -> None:
        """Add to the job's item counts."""
        self._ctx.count(succeeded=succeeded, failed=failed, skipped=skipped)

    def reject(self, item: Any, reason: str) -> None:
        """Keep an item that the handler could not take; the job becomes `partial`."""
        self._ctx.reject(item, reason)

    def discard(self, reason: str) -> None:
        """Make the open `ctx.transaction()` end the job as failed, without retries."""
        self._ctx.discard(reason)

    @contextmanager
    def transaction(self) -> Iterator[SyncConnection]:
        """`with ctx.transaction() as conn:` commits rows, follow-up jobs and this job's completion together, or none of them."""
        with self._entered(self._ctx.transaction()) as conn:
            yield conn

    @contextmanager
    def step(self, checkpoint: Any) -> Iterator[SyncConnection]:
        """`with ctx.step({…}) as conn:` commits rows together with a checkpoint, without completing the job."""
        with self._entered(self._ctx.step(checkpoint)) as conn:
            yield conn

    @overload
    def enqueue(self, what: NewJob, /, *more: NewJob, conn: SyncConnection | None = None) -> list[int]: ...

    @overload
    def enqueue(
        self,
        what: str | JobFunction[..., Any],
        args: Mapping[str, Any] = ...,
        /,
        *,
        conn: SyncConnection | None = None,
        **options: Any,
    ) -> int: ...

    def enqueue(self, what: Any, /, *more: Any, conn: SyncConnection | None = None, **options: Any) -> list[int] | int:
        """Enqueue follow-up jobs, within `conn`'s transaction if given."""
        inner = None if conn is None else conn.inner
        found: list[int] | int = self._wait(self._ctx.enqueue(what, *more, conn=inner, **options))
        return found

    def parent_results(self) -> dict[str, Any]:
        """In a workflow: the results of the steps before, by step."""
        found: dict[str, Any] = self._wait(self._ctx.parent_results())
        return found

    @contextmanager
    def _entered(self, block: AbstractAsyncContextManager[asyncpg.Connection]) -> Iterator[SyncConnection]:
        # Here it is the thread that tells one block inside of another from two side by side: each call is a task of its own.
        me = threading.get_ident()
        if me in self._inside:
            raise RuntimeError("ctx.step() and ctx.transaction() cannot stand inside of each other: close one before the next")
        self._inside.add(me)
        try:
            with self._lent(block) as conn:
                yield conn
        finally:
            self._inside.discard(me)

    @contextmanager
    def _lent(self, block: AbstractAsyncContextManager[asyncpg.Connection]) -> Iterator[SyncConnection]:
        conn = self._wait(block.__aenter__())
        try:
            yield SyncConnection(conn, self._wait)
        except BaseException as error:
            if not self._wait(block.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self._wait(block.__aexit__(None, None, None))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class SyncConnection:
    """An asyncpg connection without `await`; placeholders are `$1`, `$2` …

    Args:
        inner: the connection, which belongs to the loop.
        wait: runs a coroutine there and waits for it.
    """

    def __init__(self, inner: asyncpg.Connection, wait: Wait) -> None:
        self.inner = inner
        self._wait = wait

    def execute(self, query: str, *args: Any) -> str:
        """Run a statement; returns its status, such as `INSERT 0 1`."""
        return str(self._wait(self.inner.execute(query, *args)))

    def executemany(self, query: str, args: Sequence[Sequence[Any]]) -> None:
        """Run a statement once for each set of arguments."""
        self._wait(self.inner.executemany(query, args))

    def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """All rows of a query."""
        rows: list[asyncpg.Record] = self._wait(self.inner.fetch(query, *args))
        return rows

    def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """The first row of a query, or None."""
        return self._wait(self.inner.fetchrow(query, *args))

    def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        return self._wait(self.inner.fetchval(query, *args))

    def copy_records_to_table(self, table: str, **options: Any) -> str:
        """Copy many rows into a table; options as in asyncpg: `records=`, `columns=`, `schema_name=`."""
        return str(self._wait(self.inner.copy_records_to_table(table, **options)))
