"""What a handler is given: its job, a fenced transaction, and ways to report."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import structlog

from ingestd.errors import StaleClaim
from ingestd.events import Bus
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import Job, NewJob, State
from ingestd.jobs.store import ack as ack_store
from ingestd.jobs.store import steps
from ingestd.postgres.pool import Database


class Elsewhere(Protocol):
    """A handler that runs in a thread or a process of its own."""

    def stop(self) -> None:
        """Tell it to end."""
        ...

    def stack(self) -> str:
        """Where it is now, as a traceback's lines."""
        ...


class Context:
    """The first argument of every handler.

    Args:
        job: the claimed job.
        db: this node's pools.
        node: this node's UUID.
        bus: where events are told.
        report: publishes progress; called with (fraction or None, text).
    """

    elsewhere: Elsewhere | None = None

    def __init__(
        self,
        job: Job,
        db: Database,
        node: UUID,
        bus: Bus,
        report: Callable[[float | None, str], None] = lambda _fraction, _text: None,
    ) -> None:
        self.job = job
        self.db = db
        self.node = node
        self.bus = bus
        self.result: Any = None
        self.started_at = datetime.now(UTC)
        self.acked: ack_store.Result | None = None
        self.on_progress = report
        self._log: Any = None
        self._counts: dict[str, int] | None = None
        self._opened = False
        self._discarded: tuple[str, dict[str, Any]] | None = None

    @property
    def log(self) -> Any:
        """A structlog logger bound to the job."""
        if self._log is None:
            job = self.job
            self._log = structlog.get_logger("ingestd.job").bind(
                job_id=job.id, kind=job.kind, attempt=job.attempt, correlation_id=job.correlation_id
            )
        return self._log

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """Commit rows, follow-up jobs and this job's completion together, or none of them.

        The fence is the last statement, so that cancel and rescue never wait for the work before it.

        Raises:
            StaleClaim: the job belongs to somebody else by now; everything was rolled back.
            NoneFree: no connection became free in time.
            ConnectionLost: Postgres went away.
            RuntimeError: the job has been completed already.
        """
        if self._opened:
            raise RuntimeError("ctx.transaction() completes the job and can be used once; use ctx.step() for commits before it")
        self._opened = True
        try:
            async with self.db.handlers() as conn:
                async with conn.transaction():
                    yield conn
                    result = self._completion()
                    if self.job.id not in await ack_store.ack(conn, [result]):
                        raise StaleClaim(f"job {self.job.id} belongs to somebody else; its work was rolled back")
                self.acked = result
        finally:
            self._opened = self.acked is not None

    @asynccontextmanager
    async def step(self, checkpoint: Any) -> AsyncIterator[asyncpg.Connection]:
        """Commit rows together with a checkpoint, fenced, without completing the job.

        Args:
            checkpoint: JSON value that a later attempt finds in `ctx.job.checkpoint`.

        Raises:
            StaleClaim: the job belongs to somebody else by now; everything was rolled back.
        """
        async with self.db.handlers() as conn, conn.transaction():
            yield conn
            if not await ack_store.store_checkpoint(conn, self.job.id, self.job.claim, checkpoint):
                raise StaleClaim(f"job {self.job.id} belongs to somebody else; its step was rolled back")

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
        """Add to the job's item counts; a failed item makes the job `partial`."""
        counts = self._counts = self._counts or {"succeeded": 0, "failed": 0, "skipped": 0}
        for name, number in (("succeeded", succeeded), ("failed", failed), ("skipped", skipped)):
            counts[name] += number

    @property
    def counts(self) -> dict[str, int] | None:
        """The item counts, or None if nothing was counted."""
        return dict(self._counts) if self._counts and any(self._counts.values()) else None

    def progress(self, fraction: float | None, text: str = "") -> None:
        """Show how far the job is.

        Args:
            fraction: 0..1, or None where it is not known.
            text: a few words.
        """
        self.on_progress(None if fraction is None else min(max(fraction, 0.0), 1.0), text[:200])

    async def enqueue(self, *jobs: NewJob, conn: asyncpg.Connection | None = None) -> list[int]:
        """Enqueue follow-up jobs, within `conn`'s transaction if given."""
        if conn is not None:
            return await enqueue(conn, jobs)
        async with self.db.services() as own:
            return await enqueue(own, jobs)

    async def parent_results(self) -> dict[str, Any]:
        """In a workflow: the results of the steps that this one waits for, or takes back, by step; of those that succeeded."""
        if self.job.workflow_run is None or self.job.step is None:
            return {}
        async with self.db.services() as conn:
            return await steps.parent_results(conn, self.job.workflow_run, self.job.step)

    def elapsed_ms(self) -> int:
        """Milliseconds since this attempt began."""
        return round((datetime.now(UTC) - self.started_at).total_seconds() * 1000)

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
        }

    def _completion(self) -> ack_store.Result:
        counts = self.counts
        reason, error = self._discarded or (None, None)
        return ack_store.Result(
            self.job.id,
            self.job.claim,
            State.SUCCEEDED if reason is None else State.FAILED,
            partial=bool(counts and counts["failed"]),
            result=self.result,
            error=error,
            reason=reason,
            counts=counts,
            started_at=self.started_at,
            duration_ms=self.elapsed_ms(),
            attempt=self.attempt_entry("succeeded" if reason is None else "failed", error),
        )
