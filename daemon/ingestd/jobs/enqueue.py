"""Putting jobs into the queue, in the caller's transaction where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import asyncpg

from ingestd.errors import InvalidInput
from ingestd.jobs.model import NewJob
from ingestd.jobs.store import jobs as store
from ingestd.jobs.store import queues
from ingestd.settings import did_you_mean

BATCH = 1000
MOST_ATTEMPTS = 32767


async def enqueue(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[int]:
    """Enqueue jobs and wake the nodes that can run them.

    Args:
        conn: the jobs become visible with its transaction, or at once without one.
        jobs: in order; a job whose `unique_key` is open already answers with the id of the one that holds it.

    Returns:
        One id a job, in order.

    Raises:
        InvalidInput: a job names a queue that does not exist, or an option makes no sense; nothing was enqueued.
    """
    for job in jobs:
        _check(job)
    missing = await store.missing_queues(conn, jobs) if any(job.queue for job in jobs) else []
    if missing:
        raise InvalidInput(f'there is no queue "{missing[0]}"; declare it as [queues.{missing[0]}] in the configuration')
    ids: list[int] = []
    plain: list[NewJob] = []
    for job in jobs:
        if job.unique_key is None and len(plain) < BATCH:
            plain.append(job)
            continue
        ids += await _insert(conn, plain)
        plain = []
        if job.unique_key is None:
            plain.append(job)
        else:
            ids.append(await _insert_unique(conn, job))
    return ids + await _insert(conn, plain)


async def enqueue_alike(conn: asyncpg.Connection, template: NewJob, args: Sequence[Mapping[str, Any]]) -> list[int]:
    """Enqueue many jobs that differ only in their arguments, in one transaction.

    Args:
        template: what they share; it has no key and no unique key.
        args: one JSON object a job.

    Returns:
        One id a job, in order.

    Raises:
        InvalidInput: the queue does not exist.
    """
    for one in args:
        _check(replace(template, args=one))
    missing = await store.missing_queues(conn, [template]) if template.queue else []
    if missing:
        raise InvalidInput(f'there is no queue "{missing[0]}"; declare it as [queues.{missing[0]}] in the configuration')
    ids: list[int] = []
    async with conn.transaction():
        for start in range(0, len(args), BATCH):
            ids += await store.insert_alike(conn, template, args[start : start + BATCH])
    return ids


async def require_kind(conn: asyncpg.Connection, kind: str) -> None:
    """Refuse a kind that no node has ever published: nobody would run the job.

    Raises:
        InvalidInput: it is one; says which ones there are.
    """
    if not await queues.kind_known(conn, kind):
        known = [row["name"] for row in await queues.kinds(conn)]
        hint = did_you_mean(kind, known) or (f"; known kinds: {', '.join(known)}" if known else "; no node has run here yet")
        raise InvalidInput(f'no node knows the kind "{kind}"{hint}', pointer="/kind")


def _check(job: NewJob) -> None:
    if not job.kind:
        raise InvalidInput("a job needs a kind", pointer="/kind")
    if not isinstance(job.args, Mapping):
        raise InvalidInput("args of a job must be a JSON object", pointer="/args")
    if job.run_at is not None and job.run_at.tzinfo is None:
        raise InvalidInput("run_at has no time zone: nobody can tell which moment it is", pointer="/run_at")
    if job.max_attempts is not None and not 1 <= job.max_attempts <= MOST_ATTEMPTS:
        raise InvalidInput(f"max_attempts must be 1 to {MOST_ATTEMPTS}", pointer="/max_attempts")


async def _insert(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[int]:
    if not jobs:
        return []
    ids = await store.insert_jobs(conn, jobs)
    if len(ids) != len(jobs):
        raise InvalidInput("a queue disappeared while jobs were enqueued into it; nothing was enqueued")
    return ids


async def _insert_unique(conn: asyncpg.Connection, job: NewJob) -> int:
    assert job.unique_key is not None
    # The holder may finish between our insert and our look: then the insert is free to succeed.
    for _ in range(10):
        made = await store.insert_jobs(conn, [job])
        if made:
            return made[0]
        holder = await store.open_with_unique_key(conn, job.unique_key)
        if holder is not None:
            return holder
    raise InvalidInput(f'jobs with unique key "{job.unique_key}" come and go too fast to tell which one holds it')
