"""An enqueued job in its caller's hands: what it is doing, and what came of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from ingestd.errors import JobCancelled, JobFailed, NotFound, Refused, UsageError
from ingestd.jobs.model import State
from ingestd.jobs.store.granted import outcomes
from ingestd.jobs.store.jobs import ended
from ingestd.jobs.store.reads import show_job
from ingestd.postgres.outage import OUTAGE
from ingestd.settings import parse_duration

if TYPE_CHECKING:
    from ingestd.jobs.client import Client

FIRST_LOOK_S = 0.01
LONGEST_WAIT_S = 0.5
SLOWER = 1.3
OUTAGE_WAIT_S = 1.0
HIDDEN = "hidden"


# Not frozen only because that would triple the time to make one, and bulk enqueues make very many.
@dataclass(slots=True, unsafe_hash=True)
class Handle:
    """An enqueued job.

    Args:
        id: its number.
        created: whether the enqueue made it; False: its unique key was held, and this is the job that holds it.
        changed: whether that one was given the new arguments or the new moment.
    """

    id: int
    client: Client
    created: bool = True
    changed: bool = False

    async def status(self) -> dict[str, Any] | None:
        """The job as the API shows it, or None once history has forgotten it."""
        async with self.client.connection(None) as conn:
            return await show_job(conn, self.id)

    async def result(self, timeout: float | str | timedelta | None = None) -> Any:
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
        clock = asyncio.timeout(limit)
        try:
            async with clock:
                row = await self.client.waiter.wait(self.id)
        except TimeoutError:
            if limit is None or not clock.expired():
                raise
            raise TimeoutError(f"job {self.id} is not final after {limit:g} s; it stays in the queue") from None
        return outcome(row)


def seconds(timeout: float | str | timedelta | None) -> float | None:
    """A time limit in seconds.

    Raises:
        ValueError: it is none.
    """
    if isinstance(timeout, float) and math.isnan(timeout):
        # Comes before and after every other moment: it would keep the event loop's timers from going off.
        raise ValueError("a timeout of nan seconds never ends")
    if timeout is None or isinstance(timeout, int | float):
        return timeout
    return parse_duration(timeout).total_seconds()


def outcome(row: asyncpg.Record) -> Any:
    """The result of a job that succeeded.

    Raises:
        JobFailed: it failed.
        JobCancelled: it was cancelled or skipped.
    """
    job_id, state, reason = row["id"], row["state"], row["reason"]
    if state == State.SUCCEEDED:
        return orjson.loads(row["result"]) if row["result"] else None
    error = orjson.loads(row["error"]) if row["error"] else None
    said = reason or (f"{error.get('class')}: {error.get('message')}" if error else None)
    message = f"job {job_id} {state}" + (f": {said}" if said else "")
    if state == State.FAILED:
        raise JobFailed(message, job_id=job_id, error=error)
    raise JobCancelled(message, job_id=job_id, error=error)


class Waiter:
    """Waits for jobs to become final: one statement looks for all that are waited for, less and less often while nothing ends.

    Args:
        look: answers the rows of those of these jobs that are not open.
    """

    def __init__(self, look: Callable[[Sequence[int]], Awaitable[list[asyncpg.Record]]]) -> None:
        self._look = look
        self._waiting: dict[int, list[asyncio.Future[asyncpg.Record]]] = {}
        self._missed: set[int] = set()
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, job_id: int) -> asyncpg.Record:
        """The row of a job once it is final.

        Raises:
            NotFound: there is no such job.
        """
        answer: asyncio.Future[asyncpg.Record] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append(answer)
        self._asked.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="wait for jobs")
        try:
            return await answer
        finally:
            rest = [one for one in self._waiting.pop(job_id, []) if one is not answer]
            if rest:
                self._waiting[job_id] = rest

    async def close(self) -> None:
        """Stop looking, and tell those who wait."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._refuse(UsageError("the client was closed while it waited for a job"))

    async def _watch(self) -> None:
        pause = FIRST_LOOK_S
        while self._waiting:
            self._asked.clear()
            try:
                rows = await self._look(list(self._waiting))
            except OUTAGE:
                await asyncio.sleep(OUTAGE_WAIT_S)
                continue
            except Exception as error:  # noqa: BLE001 - handed to those who wait
                self._refuse(error)
                return
            pause = FIRST_LOOK_S if self._tell(rows) else min(pause * SLOWER, LONGEST_WAIT_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._asked.wait()
                    pause = FIRST_LOOK_S
                    await asyncio.sleep(pause)

    def _refuse(self, error: Exception) -> None:
        for answers in self._waiting.values():
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)

    def _tell(self, rows: Sequence[asyncpg.Record]) -> bool:
        missed: set[int] = set()
        for row in rows:
            # A job that is retried by hand moves from one table to the other: look twice before it counts as gone.
            if row["state"] is None and row["id"] not in self._missed:
                missed.add(row["id"])
                continue
            for answer in self._waiting.get(row["id"], ()):
                if answer.done():
                    continue
                if row["state"] == HIDDEN:
                    answer.set_exception(Refused(f"job {row['id']} was not enqueued from SQL: only the daemon's role may see its result"))
                elif row["state"] is None:
                    answer.set_exception(NotFound(f"there is no job {row['id']}, or the transaction it was enqueued in is not committed"))
                else:
                    answer.set_result(row)
        self._missed = missed
        return bool(rows)


async def look(client: Client, job_ids: Sequence[int]) -> list[asyncpg.Record]:
    """The rows of those of these jobs that are not open."""
    async with client.connection(None) as conn:
        return await (outcomes if await client.only_granted(conn) else ended)(conn, job_ids)
