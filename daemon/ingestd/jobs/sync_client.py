"""Enqueueing from programs without an event loop: Django, Flask, scripts."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar, Unpack

from ingestd.errors import UsageError
from ingestd.jobs.client import Client, alike
from ingestd.jobs.foreign import enqueue_blocking
from ingestd.jobs.handle import Handle, seconds
from ingestd.jobs.model import NewJob
from ingestd.jobs.options import Options, new_job

T = TypeVar("T")
CLOSE_S = 10.0


@dataclass(frozen=True, slots=True)
class SyncHandle:
    """An enqueued job; as `Handle`, for programs without an event loop."""

    id: int
    client: SyncClient
    created: bool = True
    changed: bool = False

    def status(self) -> dict[str, Any] | None:
        """The job as the API shows it, or None once history has forgotten it."""
        shown: dict[str, Any] | None = self.client.run(lambda client: Handle(self.id, client).status())
        return shown

    def result(self, timeout: float | str | timedelta | None = None) -> Any:
        """Wait until the job is final; returns its result.

        Args:
            timeout: seconds, or a duration such as "10m"; None: however long it takes.

        Raises:
            JobFailed: it failed; says why.
            JobCancelled: it was cancelled or skipped.
            TimeoutError: it is not final yet.
            NotFound: there is no such job, or none that is committed.
        """
        limit = seconds(timeout)
        return self.client.run(lambda client: Handle(self.id, client).result(limit))


class _Engine:
    """An event loop in a thread, and an open client in it."""

    def __init__(self, database: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = Client(database)
        self._thread = threading.Thread(target=self.loop.run_forever, name="ingestd-client", daemon=True)
        self._thread.start()
        self.submit(self.client.__aenter__()).result()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        self.submit(self.client.__aexit__(None, None, None)).result(CLOSE_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CLOSE_S)
        self.loop.close()


class SyncClient:
    """Enqueues jobs from any thread: make one a process and keep it, or use it as a context manager.

    Connections are opened at the first use. After a fork the child opens its own, so that it may be made before a server forks.

    Args:
        database: URL of a database that ingestd has migrated.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._engine: _Engine | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._inherited: list[_Engine] = []
        mine = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(mine))

    def __enter__(self) -> SyncClient:
        """Nothing is opened before it is needed."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections; calls that are under way end first. Closing twice changes nothing."""
        with self._lock:
            engine, self._engine, self._closed = self._engine, None, True
        if engine is not None:
            engine.close()

    def enqueue(
        self,
        kind: str,
        args: Mapping[str, Any] | None = None,
        *,
        allow_unknown: bool = False,
        conn: Any = None,
        **options: Unpack[Options],
    ) -> SyncHandle:
        """Enqueue one job.

        Args:
            kind: which handler runs it.
            args: JSON object of its arguments.
            allow_unknown: even if no node has ever known the kind; the job then waits for one.
            conn: a psycopg Connection, or Django's `connection`; the job is then part of the caller's transaction.
            options: as `ingestd.jobs.options.Options` says.

        Raises:
            InvalidInput: the kind or queue is unknown, the arguments do not fit, or an option makes no sense.
        """
        if conn is not None:
            return self._enqueue_in(conn, [new_job(kind, args, options)], allow_unknown)[0]
        return self._held(self.run(lambda client: client.enqueue(kind, args, allow_unknown=allow_unknown, **options)))

    def enqueue_many(
        self,
        kind: str,
        args: Sequence[Mapping[str, Any]],
        *,
        unique_keys: Sequence[str] | None = None,
        allow_unknown: bool = False,
        conn: Any = None,
        **options: Unpack[Options],
    ) -> list[SyncHandle]:
        """Enqueue many jobs of one kind in one transaction, all with the same options; as `enqueue`.

        Args:
            unique_keys: one for each set of arguments.

        Returns:
            One handle a job, in order.
        """
        if conn is not None:
            return self._enqueue_in(conn, alike(kind, args, unique_keys, options), allow_unknown)
        done = self.run(lambda client: client.enqueue_many(kind, args, unique_keys=unique_keys, allow_unknown=allow_unknown, **options))
        return [self._held(one) for one in done]

    def result(self, job_id: int, timeout: float | str | timedelta | None = None) -> Any:
        """Wait for a job by its number; as `SyncHandle.result`."""
        return SyncHandle(job_id, self).result(timeout)

    def run(self, work: Any) -> Any:
        """Call an async function with the inner client and wait for what it returns.

        Raises:
            UsageError: this client is closed.
        """
        with self._lock:
            if self._closed:
                raise UsageError("the client is closed")
            engine = self._engine = self._engine or _Engine(self._database)
            task = engine.submit(work(engine.client))
        try:
            return task.result()
        except BaseException:
            task.cancel()  # Ctrl-C in the caller: nobody waits any more
            raise

    def _enqueue_in(self, conn: Any, jobs: Sequence[NewJob], allow_unknown: bool) -> list[SyncHandle]:
        fitted = self.run(lambda client: client.fitted(jobs, allow_unknown=allow_unknown))
        return [SyncHandle(one.id, self, not one.existing, one.changed) for one in enqueue_blocking(conn, fitted)]

    def _held(self, handle: Handle) -> SyncHandle:
        return SyncHandle(handle.id, self, handle.created, handle.changed)

    def forget_parent(self) -> None:
        """In a forked child: the thread is gone, and the connections are the parent's; they must not be closed from here."""
        self._lock = threading.Lock()
        if self._engine is not None:
            self._inherited.append(self._engine)
            self._engine = None


def _forked(client: weakref.ReferenceType[SyncClient]) -> None:
    living = client()
    if living is not None:
        living.forget_parent()
