"""Jobs that a running job enqueues: it is their parent."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import asyncpg

from ingestd.errors import UsageError
from ingestd.jobs.client import Client, current_client
from ingestd.jobs.decorator import JobFunction
from ingestd.jobs.enqueue import enqueue as enqueue_jobs
from ingestd.jobs.model import Job, NewJob
from ingestd.postgres.pool import Database


async def enqueue(
    ours: Job, db: Database, what: Any, /, *more: Any, conn: asyncpg.Connection | None = None, **options: Any
) -> list[int] | int:
    """As `Context.enqueue`.

    Args:
        ours: the running job.
        db: used where there is no `conn`.
    """
    if isinstance(what, NewJob):
        jobs = [
            replace(job, parent_id=job.parent_id or ours.id, correlation_id=job.correlation_id or ours.correlation_id)
            for job in (what, *more)
        ]
        if conn is not None:
            return await enqueue_jobs(conn, jobs)
        async with db.services() as own:
            return await enqueue_jobs(own, jobs)
    if len(more) > 1:
        raise TypeError("ctx.enqueue() takes one JSON object of arguments after the kind: call it once for each job")
    args = {} if not more or more[0] is None else more[0]
    options = {"parent_id": ours.id, "correlation_id": ours.correlation_id, **options}
    if isinstance(what, JobFunction):
        spec = what.spec
        inspect.signature(what).bind(None, **args)
        options = {"queue": spec.queue, "priority": spec.priority, "max_attempts": spec.max_attempts, **options}
        # The code is at hand: whether a node has published the kind already does not matter.
        handle = await _client(db).enqueue(spec.kind, args, allow_unknown=True, conn=conn, **options)
    else:
        handle = await _client(db).enqueue(what, args, conn=conn, **options)
    return handle.id


def _client(db: Database) -> Client:
    try:
        return current_client()
    except UsageError:
        return Client(db)
