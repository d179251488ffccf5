"""What a handler is given: its job, a fenced transaction, and ways to report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, overload
from uuid import UUID

import asyncpg
import structlog

from ingestd.errors import StaleClaim
from ingestd.events import Bus
from ingestd.jobs.decorator import JobFunction
from ingestd.jobs.model import Job, NewJob, Slot, State
from ingestd.jobs.store import ack as ack_store
from ingestd.jobs.store import steps
from ingestd.jobs.store.partitions import NoPartition, make_partitions
from ingestd.postgres.pool import Database
from ingestd.work import follow_ups
from ingestd.work.elsewhere import Elsewhere
from ingestd.work.rejects import Rejects

NOTHING: Mapping[str, Any] = MappingProxyType({})


class JobCancelled(Exception):
    """Raised by `ctx.check()`: the attempt was cancelled or is over its time, and is to end now."""


class Context:
    """The first argument of every handler.

    What few jobs use is an attribute of the class until it is used: a context is made for every job.

    Args:
        job: the claimed job.
        db: this node's pools.
        node: this node's UUID.
        bus: where events are told.
        report: told of progress as well; called with (fraction or None, text).
    """

    result: Any = None
    cancelled: bool = False
    interrupted: str = ""  # why it was told to end from outside, one of `Interrupted`
    shown: dict[str, Any] | None = None  # how far it says that it is
    cut_off: int = 0
    resources: Mapping[str, Any] = NOTHING
    acked: ack_store.Result | None = None
    limit: timedelta | None = None
    elsewhere: Elsewhere | None = None
    on_acked: Callable[[ack_store.Result], None] | None = None
    backend: int | None = None  # of the transaction that is open, so that whoever asks why vacuum cannot work is told of this job
    usage: dict[str, float] | None = None
    _log: Any = None
    _counts: dict[str, int] | None = None
    _rejects: Rejects | None = None
    _opened = False
    _stepping: frozenset[object] = frozenset()  # tasks inside of a step
    _discarded: tuple[str, dict[str, Any]] | None = None
    _report: Callable[[float | None, str], None] | None = None

    def __init__(
        self,
        job: Job,
        db: Database,
        node: UUID,
        bus: Bus,
        report: Callable[[float | None, str], None] | None = None,
    ) -> None:
        self.job = job
        self.db = db
        self.node = node
        self.bus = bus
        if report is not None:
            self._report = report
        self.started = time.time()
        # What has passed since is measured by the clock that nobody sets.
        self.began = self.shown_at = time.monotonic()

    @property
    def log(self) -> Any:
        """A structlog logger bound to the job."""
        if self._log is None:
            job = self.job
            self._log = structlog.get_logger("ingestd.job").bind(
                job_id=job.id, kind=job.kind, attempt=job.attempt, correlation_id=job.correlation_id
            )
        return self._log

    @property
    def slot(self) -> Slot | None:
        """The slot of the schedule that started the job: its `due_at`, and whether it is a `catch_up`; None for other jobs."""
        return self.job.slot

    @property
    def started_at(self) -> datetime:
        """When this attempt began."""
        return datetime.fromtimestamp(self.started, UTC)

    @property
    def silent(self) -> bool:
        """Whether a first attempt has reported nothing that history would have to keep."""
        return self.job.attempt == 1 and self.result is None and self._counts is None and self._rejects is None and self.usage is None

    @property
    def deadline(self) -> datetime | None:
        """When this attempt is cancelled, or None if it may take as long as it likes."""
        return None if self.limit is None else self.started_at + self.limit

    @property
    def remaining(self) -> float | None:
        """Seconds until `deadline`, not below 0; None without one."""
        return None if self.limit is None else max(self.limit.total_seconds() - (time.monotonic() - self.began), 0.0)

    def check(self) -> None:
        """End here if the attempt was cancelled or is over its time; long loops in threads and processes call it.

        Raises:
            JobCancelled: it is; let it pass.
        """
        if self.cancelled:
            raise JobCancelled("the job was cancelled or is over its time")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """Commit rows, follow-up jobs and this job's completion together, or none of them.

        The fence is the last statement, so that cancel and rescue never wait for the work before it.

        Raises:
            StaleClaim: the job belongs to somebody else by now; everything was rolled back.
            NoneFree: no connection became free in time.
            ConnectionLost: Postgres went away.
            ServerShort: it has no disk or memory left.
            RuntimeError: the job has been completed already, or a step is open.
        """
        if self._opened:
            raise RuntimeError("ctx.transaction() completes the job and can be used once; use ctx.step() for commits before it")
        self._refuse_nested()
        self._opened = True
        try:
            async with self.db.handlers() as conn:
                self.backend = conn.get_server_pid()
                try:
                    async with conn.transaction():
                        yield conn
                        if not conn.is_in_transaction():
                            raise RuntimeError(
                                "the handler ended the transaction itself: leaving ctx.transaction() commits, an error in it rolls back"
                            )
                        reason, failure = self._discarded or (None, None)
                        result = self.completion(State.SUCCEEDED if reason is None else State.FAILED, reason=reason, error=failure)
                        try:
                            acked = await ack_store.ack(conn, [result])
                        except ack_store.NO_JSON as error:
                            result = ack_store.without_payload(result, error)
                            acked = await ack_store.ack(conn, [result])
                        if self.job.id not in acked:
                            raise StaleClaim(f"job {self.job.id} belongs to somebody else; its work was rolled back")
                except NoPartition:
                    # No failure of the job's: it is handed back, and finds one.
                    await make_partitions(conn)
                    raise
                self.acked = result
                if self.on_acked is not None:
                    self.on_acked(result)
        finally:
            self.backend = None
            self._opened = self.acked is not None

    @asynccontextmanager
    async def step(self, checkpoint: Any) -> AsyncIterator[asyncpg.Connection]:
        """Commit rows together with a checkpoint, fenced, without completing the job.

        Args:
            checkpoint: JSON value that a later attempt finds in `ctx.job.checkpoint`.

        Raises:
            StaleClaim: the job belongs to somebody else by now; everything was rolled back.
            RuntimeError: `ctx.transaction()` or another step is open around it, or the job is complete.
        """
        # Its own connection: around it another one of ours would wait for it, or for rows it has locked, where nobody sees a deadlock.
        if self._opened:
            raise RuntimeError("ctx.step() commits by itself: it can stand neither inside ctx.transaction() nor after it")
        me = self._refuse_nested()
        self._stepping |= {me}
        try:
            async with self.db.handlers() as conn, conn.transaction():
                self.backend = conn.get_server_pid()
                yield conn
                if not await ack_store.store_checkpoint(conn, self.job.id, self.job.claim, checkpoint):
                    raise StaleClaim(f"job {self.job.id} belongs to somebody else; its step was rolled back")
        finally:
            self.backend = None
            self._stepping -= {me}
        # A step is progress, whatever is shown of it.
        shown = self.shown or {"fraction": None, "text": ""}
        self.show(shown["fraction"], shown["text"])

    def _refuse_nested(self) -> object:
        me = asyncio.current_task()
        if me in self._stepping:
            raise RuntimeError("a ctx.step() is open: close it before the next one, or before ctx.transaction()")
        return me

    def discard(self, reason: str, error: dict[str, Any] | None = None) -> None:
        """Make the open `ctx.transaction()` end the job as failed, without retries, together with what it writes.

        Args:
            reason: kept in history.
            error: `{"class", "message", "traceback"}`; None: the reason.
        """
        self._discarded = reason, error or {"class": "Discard", "message": reason}

    def completed_elsewhere(self, state: State, result: Any = None, *, partial: bool = False, reason: str | None = None) -> None:
        """Note that another process acked this job in its own transaction."""
        self.result = result
        self.acked = ack_store.Result(
            self.job.id,
            self.job.claim,
            state,
            partial,
            result,
            reason=reason,
            started_at=self.started_at,
            duration_ms=self.elapsed_ms(),
        )

    def count(self, *, succeeded: int = 0, failed: int = 0, skipped: int = 0) -> None:
        """Add to the job's item counts; a failed item makes the job `partial`.

        Raises:
            TypeError: a count is no whole number.
        """
        for name, number in (("succeeded", succeeded), ("failed", failed), ("skipped", skipped)):
            if not isinstance(number, int):
                raise TypeError(f"ctx.count({name}=…) takes a whole number, not {number!r}")
        counts = self._counts = self._counts or {"succeeded": 0, "failed": 0, "skipped": 0}
        for name, number in (("succeeded", succeeded), ("failed", failed), ("skipped", skipped)):
            counts[name] += number

    def reject(self, item: Any, reason: str) -> None:
        """Keep an item that the handler could not take; the job becomes `partial`.

        Args:
            item: JSON value, cut to about 1.5 KB; the first thousand of a job are kept, all are counted.
            reason: a few words.
        """
        if self._rejects is None:
            self._rejects = Rejects()
        self._rejects.add(item, reason)

    @property
    def rejects(self) -> Rejects | None:
        """What was rejected, or None."""
        return self._rejects

    def take_over(self, counts: Mapping[str, int] | None, rejects: Rejects | None) -> None:
        """Take what the handler's own process counted and rejected."""
        self._counts = dict(counts) if counts else None
        self._rejects = rejects

    @property
    def tally(self) -> dict[str, int] | None:
        """The item counts as the handler made them."""
        return self._counts

    @property
    def counts(self) -> dict[str, int] | None:
        """The item counts, rejects among them, or None if nothing was counted."""
        counts = dict(self._counts) if self._counts and any(self._counts.values()) else None
        if self._rejects is not None:
            counts = {**(counts or {"succeeded": 0, "failed": 0, "skipped": 0}), "rejected": self._rejects.total}
        return counts

    def progress(self, fraction: float | None, text: str = "") -> None:
        """Show how far the job is.

        Args:
            fraction: 0..1, or None where it is not known.
            text: a few words.

        Raises:
            TypeError: the fraction is no number, or the text no text.
        """
        if not isinstance(fraction, int | float | None) or not isinstance(text, str):
            raise TypeError(f"ctx.progress() takes a fraction from 0 to 1, or None, and a text, not {fraction!r} and {text!r}")
        self.show(None if fraction is None else min(max(fraction, 0.0), 1.0), text[:200])

    def show(self, fraction: float | None, text: str) -> None:
        """Keep how far the job is for the next report."""
        self.shown = {"fraction": fraction, "text": text}
        self.shown_at = time.monotonic()
        if self._report is not None:
            self._report(fraction, text)

    @overload
    async def enqueue(self, what: NewJob, /, *more: NewJob, conn: asyncpg.Connection | None = None) -> list[int]: ...

    @overload
    async def enqueue(
        self,
        what: str | JobFunction[..., Any],
        args: Mapping[str, Any] = ...,
        /,
        *,
        conn: asyncpg.Connection | None = None,
        **options: Any,
    ) -> int: ...

    async def enqueue(self, what: Any, /, *more: Any, conn: asyncpg.Connection | None = None, **options: Any) -> list[int] | int:
        """Enqueue follow-up jobs; this job is their parent, and they share its correlation id, unless they say otherwise.

        Args:
            what: a kind, a function declared with `@job`, or a `NewJob`, which others may follow.
            more: after a kind or function: its arguments, one JSON object.
            conn: the jobs become part of its transaction.
            options: after a kind or function: `queue=`, `priority=`, `delay=`, `unique_key=` … as `ingestd.jobs.options.Options` says.

        Returns:
            The job's id; a list of ids where `NewJob`s were given.

        Raises:
            TypeError: the arguments do not fit the function.
            InvalidInput: the kind or queue is unknown, the arguments do not fit, or an option makes no sense.
        """
        return await follow_ups.enqueue(self.job, self.db, what, *more, conn=conn, **options)

    async def parent_results(self) -> dict[str, Any]:
        """In a workflow: the results of the steps that this one waits for, or takes back, by step; of those that succeeded."""
        if self.job.workflow_run is None or self.job.step is None:
            return {}
        async with self.db.services() as conn:
            return await steps.parent_results(conn, self.job.workflow_run, self.job.step)

    def elapsed_ms(self) -> int:
        """Milliseconds since this attempt began."""
        return round((time.monotonic() - self.began) * 1000)

    def attempt_entry(self, outcome: str, error: dict[str, Any] | None = None) -> dict[str, Any]:
        """This attempt as an entry in the job's list."""
        return {
            "n": self.job.attempt,
            "outcome": outcome,
            "started_at": self.started_at,
            "ended_at": datetime.now(UTC),
            "duration_ms": self.elapsed_ms(),
            "node": self.node,
            "error": error,
            **(self.usage or {}),
        }

    def completion(
        self, state: State, *, result: Any = None, reason: str | None = None, error: dict[str, Any] | None = None
    ) -> ack_store.Result:
        """What is written about this attempt as the job's last.

        Args:
            result: None: `ctx.result`.
        """
        counts, rejects = self.counts, self._rejects
        return ack_store.Result(
            self.job.id,
            self.job.claim,
            state,
            partial=state is State.SUCCEEDED and bool(counts and (counts["failed"] or rejects)),
            result=self.result if result is None else result,
            error=error,
            reason=reason,
            counts=counts,
            started_at=self.started_at,
            duration_ms=self.elapsed_ms(),
            attempt=self.attempt_entry(str(state), error),
            rejects=rejects.kept if rejects is not None else None,
        )
