"""Enqueueing from any Python program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

import asyncpg

from ingestd.errors import InvalidInput, UsageError
from ingestd.jobs.coalesce import Coalescer
from ingestd.jobs.enqueue import enqueue, enqueue_alike, require_kind
from ingestd.jobs.model import NewJob
from ingestd.jobs.store.reads import show_job
from ingestd.postgres.pool import Database, PoolSizes
from ingestd.settings import parse_priority

_current: ContextVar[Client | None] = ContextVar("ingestd_client", default=None)


@dataclass(frozen=True, slots=True)
class Handle:
    """An enqueued job.

    Args:
        id: its number.
    """

    id: int
    client: Client

    async def status(self) -> dict[str, Any] | None:
        """The job as the API shows it, or None once history has forgotten it."""
        async with self.client.connection(None) as conn:
            return await show_job(conn, self.id)


class Client:
    """Enqueues jobs into a database that ingestd has migrated: `async with Client(url) as client`.

    Args:
        database: its URL, or open pools of this process.
    """

    def __init__(self, database: str | Database) -> None:
        self._own = isinstance(database, str)
        self._open = not self._own
        self._known: set[str] = set()
        self._db = Database(database, sizes=PoolSizes(1, 4, 1)) if isinstance(database, str) else database
        self._coalescer = Coalescer(self._db)

    async def __aenter__(self) -> Client:
        """Open the pools and become the client that `@job` functions enqueue through."""
        if self._own:
            await self._db.open()
            self._open = True
        self._token = _current.set(self)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close the pools."""
        with suppress(ValueError):
            # closed in another task than it was opened in, as web frameworks do: that task never had it
            _current.reset(self._token)
        if self._own:
            self._open = False
            await self._coalescer.close()
            await self._db.close()

    async def enqueue(
        self,
        kind: str,
        args: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
        priority: int | str | None = None,
        run_at: datetime | None = None,
        unique_key: str | None = None,
        max_attempts: int | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        allow_unknown: bool = False,
        conn: asyncpg.Connection | None = None,
    ) -> Handle:
        """Enqueue one job.

        Args:
            kind: which handler runs it.
            args: JSON object of its arguments.
            queue: its lane; like priority and max_attempts, None means the kind's.
            run_at: not before; an aware datetime.
            unique_key: while a job with it is open, the handle of that one is returned.
            allow_unknown: even if no node has ever known the kind; the job then waits for one.
            conn: an asyncpg connection; the job is then part of the caller's transaction.

        Raises:
            InvalidInput: the kind or queue is unknown, or an option makes no sense.
        """
        job = NewJob(
            kind,
            args or {},
            queue=queue,
            priority=_priority(priority),
            run_at=run_at,
            unique_key=unique_key,
            max_attempts=max_attempts,
            tags=tuple(tags),
            notes=notes,
            metadata=metadata,
            correlation_id=correlation_id,
        )
        if conn is None and self._open and unique_key is None and (allow_unknown or kind in self._known):
            # Nobody's transaction and nothing to look up first: it may travel with others.
            return Handle(await self._coalescer.enqueue(job), self)
        async with self.connection(conn) as used:
            await self._require_kind(used, kind, allow_unknown)
            (job_id,) = await enqueue(used, [job])
        return Handle(job_id, self)

    async def enqueue_many(
        self,
        kind: str,
        args: Sequence[Mapping[str, Any]],
        *,
        queue: str | None = None,
        priority: int | str | None = None,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        tags: Sequence[str] = (),
        correlation_id: str | None = None,
        allow_unknown: bool = False,
        conn: asyncpg.Connection | None = None,
    ) -> list[Handle]:
        """Enqueue many jobs of one kind in one transaction, all with the same options; as `enqueue`.

        Returns:
            One handle a job, in order.
        """
        like = NewJob(
            kind,
            queue=queue,
            priority=_priority(priority),
            run_at=run_at,
            max_attempts=max_attempts,
            tags=tuple(tags),
            correlation_id=correlation_id,
        )
        async with self.connection(conn) as used, used.transaction():
            await self._require_kind(used, kind, allow_unknown)
            return [Handle(job_id, self) for job_id in await enqueue_alike(used, like, args)]

    async def _require_kind(self, conn: asyncpg.Connection, kind: str, allow_unknown: bool) -> None:
        # a kind that a node has published once is never forgotten
        if not allow_unknown and kind not in self._known:
            await require_kind(conn, kind)
            self._known.add(kind)

    @asynccontextmanager
    async def connection(self, conn: asyncpg.Connection | None) -> AsyncIterator[asyncpg.Connection]:
        """The caller's connection, or one of the client's own."""
        if conn is not None:
            yield conn
        elif not self._open:
            raise UsageError("the client is not open: use it inside `async with Client(database_url) as client:`")
        else:
            async with self._db.services() as own:
                yield own


def _priority(value: int | str | None) -> int | None:
    try:
        return None if value is None else parse_priority(value)
    except ValueError as error:
        raise InvalidInput(str(error), pointer="/priority") from None


def current_client() -> Client:
    """The client in use.

    Raises:
        UsageError: there is none.
    """
    client = _current.get()
    if client is None:
        raise UsageError("enqueue needs a client: wrap the call in `async with ingestd.Client(database_url):`")
    return client


@contextmanager
def use_client(client: Client) -> Iterator[None]:
    """Make a client the one that `@job` functions enqueue through."""
    token = _current.set(client)
    try:
        yield
    finally:
        _current.reset(token)
