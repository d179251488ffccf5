"""Joins single enqueues that arrive while a statement is in flight into the next one.

Every caller is answered after the commit of its own job. Measured by the project's research: sixteen times the throughput of one
statement a job, at a sixteenth of the latency, when many callers enqueue at once; one caller alone pays nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext

import asyncpg

from ingestd.jobs.checks import checked
from ingestd.jobs.enqueue import BATCH_BYTES, enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres.pool import OUTAGE, ConnectionLost, Database, reason

MOST = 500

Waiting = tuple[NewJob, str, asyncio.Future[int]]


class Coalescer:
    """Enqueues single jobs, several at a time.

    A caller that is cancelled while it waits may or may not have enqueued its job, as with any statement under way.

    Args:
        db: its service connections are used, one at a time.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[Waiting] = []
        self._sender: asyncio.Task[None] | None = None

    async def enqueue(self, job: NewJob) -> int:
        """Enqueue one job and return its id once it is committed.

        Raises:
            InvalidInput: an option makes no sense or its queue does not exist; other callers' jobs are not affected.
        """
        args = checked(job)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, args, answer))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send(), name="enqueue")
        return await answer

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._sender is not None:
            await asyncio.gather(self._sender, return_exceptions=True)

    async def _send(self) -> None:
        while self._waiting:
            try:
                # One connection for as long as somebody waits: lending it out and back costs as much as an enqueue.
                async with self._db.services() as conn:
                    while self._waiting and await self._send_batch(conn, self._next()):
                        pass
            except Exception as error:  # noqa: BLE001 - nobody lets us in; handed to all who wait
                refused, self._waiting = self._waiting, []
                for one in refused:
                    _fail(one, error)

    async def _send_batch(self, conn: asyncpg.Connection, batch: Sequence[Waiting]) -> bool:
        """Insert a batch and answer its callers; returns whether the connection is still good."""
        try:
            await _insert(conn, batch)
        except OUTAGE as error:
            # Perhaps it committed and only the answer was lost: to send it again could enqueue every job twice.
            for one in batch:
                _fail(one, ConnectionLost(f"Postgres went away: {reason(error)}"))
            return False
        except Exception as error:  # noqa: BLE001 - handed to the caller whose job it was
            if len(batch) == 1:
                _fail(batch[0], error)
                return True
            # One of them is at fault; it must not take the others with it.
            return all([await self._send_batch(conn, [one]) for one in batch])
        return True

    def _next(self) -> list[Waiting]:
        size = 0
        for count, (_, args, _) in enumerate(self._waiting[:MOST]):
            size += len(args)
            if size > BATCH_BYTES and count:
                break
        else:
            count = MOST
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch


async def _insert(conn: asyncpg.Connection, batch: Sequence[Waiting]) -> None:
    # One job is one statement: a transaction around it would be three times the round trips.
    async with conn.transaction() if len(batch) > 1 else nullcontext():
        ids = await enqueue(conn, [job for job, _, _ in batch], [args for _, args, _ in batch])
    for (_, _, answer), job_id in zip(batch, ids, strict=True):
        if not answer.done():
            answer.set_result(job_id)


def _fail(waiting: Waiting, error: BaseException) -> None:
    if not waiting[2].done():
        waiting[2].set_exception(error)
