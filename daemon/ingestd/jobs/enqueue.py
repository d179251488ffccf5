"""Putting jobs into the queue, in the caller's transaction where there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import asyncpg

from ingestd.errors import InvalidInput
from ingestd.jobs.checks import checked, is_plain, json_list
from ingestd.jobs.model import Job, NewJob
from ingestd.jobs.store import granted, single
from ingestd.jobs.store import jobs as store
from ingestd.jobs.store.claim import Claimant
from ingestd.postgres.savepoint import all_or_nothing

BATCH = 1000
BATCH_BYTES = 8 << 20

_BARE = attrgetter("key", "store", "parked", "workflow_run", "step")
_NOTHING = (None, None, 0, None, None)
_SHARED = attrgetter(
    "kind", "queue", "priority", "run_at", "max_attempts", "tags", "notes", "metadata", "correlation_id", "parent_id", "triggered_by",
    "key", "store", "parked", "workflow_run", "step",
)  # fmt: skip


class Enqueued(NamedTuple):
    """What became of an enqueue.

    Args:
        id: the job's number.
        existing: its unique key was held, so this is the job that holds it.
        changed: that job was given the new arguments or the new moment.
    """

    id: int
    existing: bool = False
    changed: bool = False


async def enqueue(conn: asyncpg.Connection, jobs: Sequence[NewJob], args: Sequence[str] | None = None) -> list[int]:
    """Enqueue jobs and wake the nodes that can run them.

    Args:
        conn: the jobs become visible with its transaction, or at once, all together, without one.
        jobs: in order; a job whose `unique_key` is held answers with the id of the one that holds it.
        args: the arguments of each as JSON, where they have been checked already.

    Returns:
        One id a job, in order.

    Raises:
        InvalidInput: a job names a queue that does not exist, or an option makes no sense; nothing was enqueued.
    """
    texts = [checked(job) for job in jobs] if args is None else args
    await _require_queues(conn, jobs)
    if len(jobs) <= BATCH and all(is_plain(job) for job in jobs) and sum(map(len, texts)) <= BATCH_BYTES:
        return await _insert_plain(conn, jobs, texts) if jobs else []
    return [one.id for one in await _insert_runs(conn, jobs, texts)]


async def enqueue_plain(conn: asyncpg.Connection, jobs: Sequence[NewJob], args: Sequence[str]) -> list[int]:
    """Enqueue checked plain jobs in one statement, in nobody's transaction; as `enqueue`.

    Args:
        jobs: no more than fit into one statement.
        args: the arguments of each as JSON.
    """
    if len(jobs) == 1:
        return [await _insert_one(conn, jobs[0], args[0])]
    try:
        # What many callers enqueue at once is mostly the same, but for its arguments. No ids: there is no such queue.
        ids = await store.insert_alike(conn, jobs[0], f"[{','.join(args)}]") if _are_alike(jobs) else []
        return ids or await store.insert_jobs(conn, jobs, args)
    except asyncpg.NotNullViolationError:
        await refuse_missing_queues(conn, jobs)
        raise


async def enqueue_taken(
    conn: asyncpg.Connection, job: NewJob, args: str, who: Claimant, queue_id: int, queue: str
) -> tuple[int, Job | None]:
    """Enqueue one checked plain job that its own node runs at once, in nobody's transaction; see `single.insert_taken`."""
    try:
        return await single.insert_taken(conn, job, args, who, queue_id, queue)
    except asyncpg.NotNullViolationError:
        await refuse_missing_queues(conn, [job])
        raise


async def enqueue_told(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[Enqueued]:
    """As `enqueue`; tells new jobs from those that were there."""
    texts = [checked(job) for job in jobs]
    await _require_queues(conn, jobs)
    return await _insert_runs(conn, jobs, texts)


async def enqueue_granted(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[Enqueued]:
    """As `enqueue_told`, through the SQL functions: for a role that may call these and nothing else."""
    texts = [checked(job) for job in jobs]
    done: list[Enqueued] = []
    try:
        async with all_or_nothing(conn) if len(jobs) > 1 else nullcontext():
            for batch in _batches(texts):
                some, jobs = jobs[: len(batch)], jobs[len(batch) :]
                done += [Enqueued(*row) for row in await granted.insert_each(conn, some, batch)]
    except asyncpg.InvalidParameterValueError as error:
        hint = f"; {error.hint}" if error.hint and error.hint.startswith("declare") else ""
        raise InvalidInput(f"{error}{hint}") from None
    return done


async def enqueue_alike(conn: asyncpg.Connection, template: NewJob, args: Sequence[Mapping[str, Any]]) -> list[int]:
    """Enqueue many jobs that differ only in their arguments, in one transaction.

    Args:
        template: what they share.
        args: one JSON object a job.

    Returns:
        One id a job, in order.

    Raises:
        InvalidInput: the queue does not exist, or an option makes no sense; nothing was enqueued.
    """
    checked(template)
    if template.key is not None or template.unique_key is not None:
        return await enqueue(conn, [replace(template, args=one) for one in args])
    lists = [text for start in range(0, len(args), BATCH) for text in _lists(args[start : start + BATCH])]
    await _require_queues(conn, [template])
    async with all_or_nothing(conn) if len(lists) > 1 else nullcontext():
        ids = [job_id for text in lists for job_id in await store.insert_alike(conn, template, text)]
        if len(ids) < len(args):
            await refuse_missing_queues(conn, [template])
            raise InvalidInput("its queue was declared only just now; nothing was enqueued", hint="enqueue them again")
    return ids


def _are_alike(jobs: Sequence[NewJob]) -> bool:
    """Whether plain jobs differ only in their arguments, and use nothing that the statement for those leaves out."""
    first = _SHARED(jobs[0])
    # Equal metadata may be different JSON: 1 and true are equal.
    return _BARE(jobs[0]) == _NOTHING and jobs[0].metadata is None and all(_SHARED(job) == first for job in jobs)


async def _require_queues(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> None:
    if any(job.queue for job in jobs):
        await refuse_missing_queues(conn, jobs)


async def refuse_missing_queues(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> None:
    """Refuse jobs whose queue does not exist.

    Raises:
        InvalidInput: names it.
    """
    for name in await store.missing_queues(conn, jobs):
        theirs = next((f', which is that of the kind "{job.kind}"' for job in jobs if job.queue is None), "")
        whose = "" if any(job.queue == name for job in jobs) else theirs
        raise InvalidInput(f'there is no queue "{name}"{whose}; declare it as [queues.{name}] in the configuration', pointer="/queue")


async def _insert_runs(conn: asyncpg.Connection, jobs: Sequence[NewJob], texts: Sequence[str]) -> list[Enqueued]:
    """Jobs that need more than the fast statement go by another one, in their place, so that ids stay in order."""
    done: list[Enqueued] = []
    async with all_or_nothing(conn) if len(jobs) > 1 else nullcontext():
        for plain, run in groupby(zip(jobs, texts, strict=True), key=lambda ready: is_plain(ready[0])):
            ready = list(run)
            for batch in _batches([text for _, text in ready]):
                some, ready = [job for job, _ in ready[: len(batch)]], ready[len(batch) :]
                if plain:
                    done += [Enqueued(job_id) for job_id in await _insert_plain(conn, some, batch)]
                else:
                    done += [Enqueued(*row) for row in await _insert_rows(conn, some, batch)]
    return done


async def _insert_one(conn: asyncpg.Connection, job: NewJob, text: str) -> int:
    """Insert one plain job; a refusal leaves the transaction open, for one job has no others that would have to be taken back."""
    job_id = await single.insert_one(conn, job, text)
    if job_id is None:
        await refuse_missing_queues(conn, [job])
        raise InvalidInput("its queue was declared only just now; nothing was enqueued", hint="enqueue it again")
    return job_id


async def _insert_plain(conn: asyncpg.Connection, jobs: Sequence[NewJob], texts: Sequence[str]) -> list[int]:
    if len(jobs) == 1:
        return [await _insert_one(conn, jobs[0], texts[0])]
    try:
        return await store.insert_jobs(conn, jobs, texts)
    except asyncpg.NotNullViolationError:
        # A job of no queue. Asked for only now, hardly ever is one missing; not in a transaction, which is over by this.
        if not conn.is_in_transaction():
            await refuse_missing_queues(conn, jobs)
        kinds = ", ".join(sorted({job.kind for job in jobs if job.queue is None}))
        raise InvalidInput(
            f"the queue of {kinds} is not declared as [queues.NAME] in the configuration; nothing was enqueued",
            hint="`ingestd check` names the queue, or give another one",
        ) from None


async def _insert_rows(conn: asyncpg.Connection, jobs: Sequence[NewJob], texts: Sequence[str]) -> list[tuple[int, bool, bool]]:
    try:
        return await store.insert_rows(conn, jobs, texts)
    except asyncpg.InvalidParameterValueError as error:
        raise InvalidInput(str(error)) from None


def _lists(args: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Arguments as JSON arrays, each small enough for one statement."""
    text = json_list(args)
    if len(text) <= BATCH_BYTES or len(args) == 1:
        yield text
        return
    half = len(args) // 2
    yield from _lists(args[:half])
    yield from _lists(args[half:])


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """In order, few enough and small enough for one statement."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == BATCH or size + len(text) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch
