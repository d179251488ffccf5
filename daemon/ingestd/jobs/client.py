"""Enqueueing from any Python program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Unpack

import asyncpg

from ingestd.errors import InvalidInput, Refused, UsageError
from ingestd.jobs.checks import checked, is_plain
from ingestd.jobs.coalesce import Coalescer, Reserver
from ingestd.jobs.enqueue import Enqueued, enqueue_alike, enqueue_granted, enqueue_told, refuse_missing_queues
from ingestd.jobs.foreign import enqueue_foreign, is_asyncpg
from ingestd.jobs.handle import Handle, Waiter, look
from ingestd.jobs.kinds import PublishedKind, require_kind
from ingestd.jobs.model import NewJob
from ingestd.jobs.options import Options, new_job
from ingestd.jobs.store import granted
from ingestd.postgres.pool import Database, PoolSizes
from ingestd.postgres.savepoint import all_or_nothing

__all__ = ["Client", "Handle", "current_client", "use_client"]

# A database that is not migrated, or a role that has no rights in it.
NOT_OURS = (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError, asyncpg.InsufficientPrivilegeError)

_current: ContextVar[Client | None] = ContextVar("ingestd_client", default=None)


class Client:
    """Enqueues jobs into a database that ingestd has migrated: `async with Client(url) as client`.

    Args:
        database: its URL, or open pools of this process.
        on_enqueued: called with what was enqueued and committed, and waits; unless it was part of somebody's transaction.
        reserver: runs single jobs at once that are enqueued here, where it can.
    """

    def __init__(
        self,
        database: str | Database,
        on_enqueued: Callable[[Sequence[NewJob]], None] = lambda _: None,
        reserver: Reserver | None = None,
    ) -> None:
        self._own = isinstance(database, str)
        self._open = not self._own
        self._kinds: dict[str, PublishedKind] = {}
        # Queues that there are: by name, and those of kinds.
        self._queues: set[str | tuple[str]] = set()
        # Whether we may look for more.
        self._sees_queues = True
        # Whether jobs may be inserted on the client's own connections; open pools are those of the daemon's role.
        self._direct: bool | None = None if self._own else True
        self._db = Database(database, sizes=PoolSizes(1, 4, 1)) if isinstance(database, str) else database
        keep = self._own or reserver is not None
        self._coalescer = Coalescer(self._db, keep=keep, reserver=reserver, on_waiting=on_enqueued)
        self._on_enqueued = on_enqueued
        self.waiter = Waiter(partial(look, self))

    async def __aenter__(self) -> Client:
        """Open the pools and become the client that `@job` functions enqueue through."""
        if self._own:
            await self._db.notice_pooler()
            await self._db.open()
            self._open = True
        self._token = _current.set(self)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close the pools."""
        with suppress(ValueError):
            # closed in another task than it was opened in, as web frameworks do: that task never had it
            _current.reset(self._token)
        await self.waiter.close()
        if self._own:
            self._open = False
            await self._coalescer.close()
            await self._db.close()

    async def rest(self) -> None:
        """Wait for single enqueues that are under way, and keep no connection for further ones."""
        await self._coalescer.close()

    async def enqueue(
        self,
        kind: str,
        args: Mapping[str, Any] | None = None,
        *,
        allow_unknown: bool = False,
        conn: Any = None,
        **options: Unpack[Options],
    ) -> Handle:
        """Enqueue one job.

        Args:
            kind: which handler runs it.
            args: JSON object of its arguments.
            allow_unknown: even if no node has ever known the kind; the job then waits for one.
            conn: an asyncpg connection or a psycopg AsyncConnection; the job is then part of the caller's transaction.
            options: as `ingestd.jobs.options.Options` says.

        Raises:
            InvalidInput: the kind or queue is unknown, the arguments do not fit, or an option makes no sense.
        """
        job = new_job(kind, args, options)
        known = self._kinds.get(kind)
        if conn is None and self._open and self._direct and is_plain(job) and (allow_unknown or (known is not None and _fits(known, job))):
            # Nobody's transaction and nothing to look up first: it may travel with others.
            try:
                return Handle(await self._coalescer.enqueue(job if known is None else replaced(job, known.name)), self)
            except NOT_OURS as error:
                raise _worded(error) from error
        (done,) = await self.enqueue_jobs([job], allow_unknown=allow_unknown, conn=conn)
        return done

    async def enqueue_jobs(self, jobs: Sequence[NewJob], *, allow_unknown: bool = False, conn: Any = None) -> list[Handle]:
        """Enqueue different jobs in one transaction, all or none; as `enqueue`.

        Returns:
            One handle a job, in order.
        """
        done: list[Enqueued]
        if conn is not None and not is_asyncpg(conn):
            # What may be asked of the caller's role is not known, and a refusal would end its transaction: we ask by ourselves.
            done = await enqueue_foreign(conn, await self.fitted(jobs, allow_unknown=allow_unknown))
        else:
            async with self.connection(conn) as used:
                if not allow_unknown:
                    jobs = [await self._fitted(used, job) for job in jobs]
                done = await (enqueue_granted if await self.only_granted(used, theirs=conn is not None) else enqueue_told)(used, jobs)
        if conn is None:
            self._on_enqueued(jobs)
        return [Handle(one.id, self, not one.existing, one.changed) for one in done]

    async def enqueue_many(
        self,
        kind: str,
        args: Sequence[Mapping[str, Any]],
        *,
        unique_keys: Sequence[str] | None = None,
        allow_unknown: bool = False,
        conn: Any = None,
        **options: Unpack[Options],
    ) -> list[Handle]:
        """Enqueue many jobs of one kind in one transaction, all with the same options; as `enqueue`.

        Args:
            unique_keys: one for each set of arguments.

        Returns:
            One handle a job, in order.
        """
        args = list(args)  # of whatever they are given as: they are counted, looked through and cut into pieces
        if unique_keys is not None or (conn is not None and not is_asyncpg(conn)):
            return await self.enqueue_jobs(alike(kind, args, unique_keys, options), allow_unknown=allow_unknown, conn=conn)
        like = new_job(kind, None, options)
        _refuse_shared_key(like)
        # A refusal must not end a caller's transaction; without one, each statement is all or nothing by itself.
        async with self.connection(conn) as used, all_or_nothing(used) if used.is_in_transaction() else nullcontext():
            if not allow_unknown:
                like = replaced(like, (await self._published(used, kind, args)).name)
            if await self.only_granted(used, theirs=conn is not None):
                ids = [one.id for one in await enqueue_granted(used, [replace(like, args=each) for each in args])]
            else:
                ids = await enqueue_alike(used, like, args)
        if conn is None:
            self._on_enqueued([like])
        return [Handle(job_id, self) for job_id in ids]

    async def fitted(self, jobs: Sequence[NewJob], *, allow_unknown: bool) -> Sequence[NewJob]:
        """The jobs under the present names of their kinds.

        Raises:
            InvalidInput: a kind or queue is unknown, or the arguments do not fit.
        """
        if allow_unknown and not any(job.queue for job in jobs):
            return jobs
        async with self.connection(None) as own:
            if not allow_unknown:
                jobs = [await self._fitted(own, job) for job in jobs]
            await self._require_queues(own, jobs, allow_unknown=allow_unknown)
        return jobs

    async def _require_queues(self, own: asyncpg.Connection, jobs: Sequence[NewJob], *, allow_unknown: bool) -> None:
        # A kind that no node has published is in a queue that there always is; and of those there is no end.
        asked = {job.queue or (job.kind,): job for job in jobs if job.queue or not allow_unknown}
        news = [job for name, job in asked.items() if name not in self._queues]
        for job in news:
            checked(job)
        if news and self._sees_queues:
            try:
                await refuse_missing_queues(own, news)
            except asyncpg.InsufficientPrivilegeError:
                # A role that was let in before it could look hears of it when it enqueues; the server writes down each look it refuses.
                self._sees_queues = False
            else:
                self._queues.update(asked)

    async def _fitted(self, conn: asyncpg.Connection, job: NewJob) -> NewJob:
        return replaced(job, (await self._published(conn, job.kind, [job.args])).name)

    async def _published(self, conn: asyncpg.Connection, kind: str, args: Sequence[Mapping[str, Any]]) -> PublishedKind:
        known = self._kinds.get(kind)
        if known is not None and not known.stale and known.fit(args):
            return known
        # Not known, or remembered for a while: a node may have published other arguments since.
        known = self._kinds[kind] = await require_kind(conn, kind)
        known.check(args)
        return known

    @asynccontextmanager
    async def connection(self, conn: asyncpg.Connection | None) -> AsyncIterator[asyncpg.Connection]:
        """The caller's connection, or one of the client's own."""
        if conn is not None:
            yield conn
        elif not self._open:
            raise UsageError("the client is not open: use it inside `async with Client(database_url) as client:`")
        else:
            try:
                async with self._db.services() as own:
                    if self._direct is None:
                        self._direct = not await granted.only_granted(own)
                    yield own
            except NOT_OURS as error:
                raise _worded(error) from error

    async def only_granted(self, conn: asyncpg.Connection, *, theirs: bool = False) -> bool:
        """Whether this connection's role may call the SQL functions and not write jobs itself.

        Args:
            theirs: it is a caller's, whose role may be another at each call.
        """
        return await granted.only_granted(conn) if theirs and self._own else not self._direct


def _fits(known: PublishedKind, job: NewJob) -> bool:
    return not known.stale and not known.problems(job.args)


def _worded(error: asyncpg.PostgresError) -> UsageError | Refused:
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return Refused(
            f"the client's role may not do this: {error}",
            hint="to enqueue and to wait for results it needs `ingestd migrate --grant ROLE`; for anything else the daemon's own rights",
        )
    return UsageError("this database has no queue, or an older one: run `ingestd migrate` on it")


def alike(kind: str, args: Sequence[Mapping[str, Any]], unique_keys: Sequence[str] | None, options: Mapping[str, Any]) -> list[NewJob]:
    """Jobs that differ in their arguments and, where they are given, their unique keys."""
    if unique_keys is None:
        like = new_job(kind, None, options)
        _refuse_shared_key(like)
        return [replace(like, args=one) for one in args]
    if len(unique_keys) != len(args):
        raise InvalidInput(f"{len(args)} jobs need as many unique_keys, not {len(unique_keys)}", pointer="/unique_keys")
    like = new_job(kind, None, {**options, "unique_key": "one of unique_keys"})
    return [replace(like, args=one, unique_key=key) for one, key in zip(args, unique_keys, strict=True)]


def _refuse_shared_key(job: NewJob) -> None:
    if job.unique_key is not None:
        raise InvalidInput("many jobs cannot share a unique_key: give unique_keys, one a job", pointer="/unique_key")


def replaced(job: NewJob, kind: str) -> NewJob:
    """The job under the present name of its kind, whose defaults are looked up by it."""
    return job if job.kind == kind else replace(job, kind=kind)


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
