"""Writes how jobs ended, many in one fenced statement.

A result whose write fails stays here, keeps its claim and is tried again: a finished job is never run twice because Postgres
was away for a moment. Slots do not wait for it; when too
much is unwritten, nothing more is claimed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import asyncpg

from ingestd.events import Bus, JobFinished, JobRetrying, JobsSucceeded, StaleAck
from ingestd.jobs.model import Job, State
from ingestd.jobs.store import ack as store
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.pool import Database
from ingestd.service import Poller

GATHER_S = 0.005
# So many need not wait for others.
ENOUGH = 500
BATCH = 1000
FULL = 5000
IDLE_S = 60.0
FLUSH_S = 5.0
RETRY_S = 0.2
# What a job's result may raise on its way: a value that Postgres cannot hold, or no JSON in the first place. Whatever else is wrong
# (a lock held for long, a full disk, no writes for now) is no matter of the result, which waits until it has passed.
UNSTORABLE = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.InternalServerError,
    *store.NO_JSON,
)

W = TypeVar("W")
Done = tuple[Job, float, int]


@dataclass(slots=True)
class Pending:
    """A write that waits.

    Args:
        reason: a few words for the log.
    """

    job: Job
    write: store.Result | store.PutBack
    reason: str


class Acker:
    """Collects endings and writes them in batches.

    Args:
        db: its pools.
        bus: where finished jobs are told.
        on_progress: called after a batch that may have freed other jobs.
    """

    def __init__(self, db: Database, bus: Bus, on_progress: Callable[[], None]) -> None:
        self.poller = Poller("acker", self._poll, bus)
        self._db = db
        self._bus = bus
        self._on_progress = on_progress
        self._waiting: list[Pending] = []
        # Most jobs end without a word: (job, started, milliseconds), without an object of their own.
        self._done: list[Done] = []
        self._turn = asyncio.Lock()

    def submit(self, pending: Pending) -> None:
        """Have an ending written soon; until then the job keeps its claim."""
        self._waiting.append(pending)
        self.poller.wake()

    def done(self, job: Job, started: float, duration_ms: int) -> None:
        """Have it written soon that a job succeeded with nothing more to say; until then it keeps its claim.

        Args:
            started: seconds since 1970.
        """
        done = self._done
        done.append((job, started, duration_ms))
        if len(done) == 1 or len(done) == ENOUGH:
            self.poller.wake()

    def tell_acked(self, job: Job, result: store.Result) -> None:
        """Tell of a job that its own transaction, or another process, has acked."""
        self._bus.emit(JobFinished(job.id, job.kind, _shown(result), result.duration_ms, result.reason, result.result, job.correlation_id))
        if _frees_others(job):
            self._on_progress()

    def tell_stale(self, job: Job) -> None:
        """Tell of a job whose claim was gone before its ending could be written."""
        self._bus.emit(StaleAck(job.id, job.kind, job.correlation_id))

    @property
    def unwritten(self) -> int:
        """Endings that wait to be written."""
        return len(self._waiting) + len(self._done)

    def claims(self) -> set[UUID]:
        """Claims of jobs whose ending is not written yet."""
        return {pending.job.claim for pending in self._waiting} | {job.claim for job, _, _ in self._done}

    def is_full(self) -> bool:
        """Whether so much waits to be written that nothing more should be claimed."""
        return self.unwritten >= FULL

    async def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Write everything that waits; used by the drain.

        Args:
            timeout_s: how long Postgres may take for the next ones, in seconds: it may be slow, but not stand still.

        Returns:
            False if Postgres did not take it in time: those jobs keep their claims and are rescued later.
        """
        deadline, left = time.monotonic() + timeout_s, self.unwritten
        while self.unwritten:
            try:
                # A table that somebody has locked, or a silent line, would hold up the end of the node for as long as it lasts.
                async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                    await self._poll()
            except (*OUTAGE, asyncpg.PostgresError):  # a deadlock, say: as in the loop, what waits is not at fault
                if time.monotonic() >= deadline:
                    return False
                await asyncio.sleep(RETRY_S)
            if self.unwritten < left:
                deadline, left = time.monotonic() + timeout_s, self.unwritten
        return True

    async def _poll(self) -> float:
        # The drain's flush and the loop's pass must not take the same batch.
        async with self._turn:
            return await self._pass()

    async def _pass(self) -> float:
        if not self.unwritten:
            return IDLE_S
        if self.unwritten < ENOUGH:
            await asyncio.sleep(GATHER_S)
        if self._done:
            await self._pass_done(self._done[:BATCH])
        if self._waiting:
            await self._pass_waiting(self._waiting[:BATCH])
        return 0.0 if self.unwritten else IDLE_S

    async def _pass_done(self, batch: list[Done]) -> None:
        async with self._db.core() as conn:
            written = await store.ack_plain(conn, batch)
            if written is not None:
                # Perhaps the write before this one committed and only its answer was lost.
                written |= await store.already_acked(conn, [(job.id, job.claim) for job, _, _ in batch if job.id not in written])
        # Only now: what is still in the list keeps its claim.
        self._done = self._done[len(batch) :]
        durations: dict[str, list[int]] = {}
        frees = False
        for job, _, duration_ms in batch:
            if written is not None and job.id not in written:
                self.tell_stale(job)
                continue
            durations.setdefault(job.kind, []).append(duration_ms)
            frees = frees or _frees_others(job)
        for kind, times in durations.items():
            self._bus.emit(JobsSucceeded(kind, tuple(times)))
        if frees:
            self._on_progress()

    async def _pass_waiting(self, batch: list[Pending]) -> None:
        written = await self._write(batch)
        self._waiting = self._waiting[len(batch) :]
        for pending in batch:
            self._tell(pending, pending.job.id in written)
        if any(_frees_others(pending.job) or _parks(pending.write) for pending in batch):
            self._on_progress()

    async def _write(self, batch: list[Pending]) -> set[int]:
        results = [pending.write for pending in batch if isinstance(pending.write, store.Result)]
        returns = [pending.write for pending in batch if isinstance(pending.write, store.PutBack)]
        async with self._db.core() as conn:
            written = await _apart(conn, results, store.ack, store.without_payload)
            written |= await _apart(conn, returns, store.put_back, _failed_instead)
            if len(written) < len(batch):
                written |= await _stop_asked(conn, [pending for pending in batch if pending.job.id not in written])
            missing = [pending for pending in batch if pending.job.id not in written]
            if missing:
                # Perhaps the write before this one committed and only its answer was lost.
                written |= await store.already_acked(conn, [(p.job.id, p.job.claim) for p in missing])
        return written

    def _tell(self, pending: Pending, written: bool) -> None:
        job, write = pending.job, pending.write
        if not written:
            self.tell_stale(job)
        elif isinstance(write, store.Result):
            error = write.reason or (write.error or {}).get("message")
            self._bus.emit(JobFinished(job.id, job.kind, _shown(write), write.duration_ms, error, write.result, job.correlation_id))
        elif write.spent:
            self._bus.emit(JobRetrying(job.id, job.kind, job.attempt, write.delay.total_seconds(), pending.reason, job.correlation_id))


async def _apart(
    conn: asyncpg.Connection,
    writes: Sequence[W],
    write: Callable[[asyncpg.Connection, Sequence[W]], Awaitable[set[int]]],
    instead: Callable[[W, Exception], store.Result],
) -> set[int]:
    """Write all in one statement; where one of them cannot be stored, that one alone ends otherwise."""
    if not writes:
        return set()
    try:
        return await write(conn, writes)
    except OUTAGE:
        raise
    except UNSTORABLE as error:
        if len(writes) == 1:
            return await store.ack(conn, [instead(writes[0], error)])
        written: set[int] = set()
        for one in writes:
            written |= await _apart(conn, [one], write, instead)
        return written


async def _stop_asked(conn: asyncpg.Connection, unwritten: Sequence[Pending]) -> set[int]:
    """End those that were to go back into the queue and that somebody has asked to cancel meanwhile: there they would begin again."""
    returns = [pending for pending in unwritten if isinstance(pending.write, store.PutBack)]
    asked = await store.asked_to_stop(conn, [(pending.job.id, pending.job.claim) for pending in returns]) if returns else set[int]()
    ends: list[store.Result] = []
    for pending in returns:
        if pending.job.id in asked and isinstance(pending.write, store.PutBack):
            pending.write = _cancelled_instead(pending.write)
            ends.append(pending.write)
    return await store.ack(conn, ends) if ends else set()


def _frees_others(job: Job) -> bool:
    return bool(job.workflow_run or job.key or job.parent_id)


def _parks(write: store.Result | store.PutBack) -> bool:
    # Its children may have finished before it was parked.
    return isinstance(write, store.PutBack) and write.parked != 0


def _shown(result: store.Result) -> str:
    return "partial" if result.partial and result.state is State.SUCCEEDED else str(result.state)


def _cancelled_instead(write: store.PutBack) -> store.Result:
    begun = write.attempt or {}
    reason, entry = ("cancelled while running", begun | {"outcome": "cancelled"}) if begun else ("cancelled", None)
    return store.Result(
        write.job_id, write.claim, State.CANCELLED, reason=reason, error=begun.get("error"), started_at=begun.get("started_at"),
        duration_ms=begun.get("duration_ms", 0), attempt=entry,
    )  # fmt: skip


def _failed_instead(write: store.PutBack, error: Exception) -> store.Result:
    text = f"it could not be put back into the queue: {error}"
    return store.Result(write.job_id, write.claim, State.FAILED, reason=text, error={"class": type(error).__name__, "message": text})
