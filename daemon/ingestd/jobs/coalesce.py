"""Joins single enqueues that arrive while a statement is in flight into the next one.

Every caller is answered after the commit of its own job. Measured by the project's research: sixteen times the throughput of one
statement a job, at a sixteenth of the latency, when many callers enqueue at once; one caller alone pays nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ingestd.jobs.checks import checked
from ingestd.jobs.enqueue import BATCH_BYTES, enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres.pool import OUTAGE, Database

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
            batch = self._next()
            try:
                await self._insert(batch)
            except OUTAGE as error:
                # Perhaps it committed and only the answer was lost: to send it again could enqueue every job twice.
                for one in batch:
                    _fail(one, error)
            except Exception as error:  # noqa: BLE001 - handed to the caller whose job it was
                if len(batch) == 1:
                    _fail(batch[0], error)
                    continue
                # One of them is at fault; it must not take the others with it.
                for one in batch:
                    try:
                        await self._insert([one])
                    except Exception as own:  # noqa: BLE001 - handed to the caller whose job it was
                        _fail(one, own)

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

    async def _insert(self, batch: Sequence[Waiting]) -> None:
        async with self._db.services() as conn, conn.transaction():
            ids = await enqueue(conn, [job for job, _, _ in batch], [args for _, args, _ in batch])
        for (_, _, answer), job_id in zip(batch, ids, strict=True):
            if not answer.done():
                answer.set_result(job_id)


def _fail(waiting: Waiting, error: BaseException) -> None:
    if not waiting[2].done():
        waiting[2].set_exception(error)
