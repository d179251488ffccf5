"""Jobs in every state, without a worker."""

from __future__ import annotations

import uuid
from typing import Any

import asyncpg

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import Job, NewJob, State
from ingestd.jobs.store import ack, claim
from ingestd.jobs.store.ack import PutBack, Result
from ingestd.jobs.store.claim import Claimant

NODE, STORE = uuid.uuid4(), uuid.uuid4()


async def new(conn: asyncpg.Connection, kind: str = "sync", **options: Any) -> int:
    """Enqueue one job."""
    (number,) = await enqueue(conn, [NewJob(kind, **options)])
    return number


async def rows(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """All open jobs, with the names of their queues."""
    return await conn.fetch("select j.*, q.name as queue from ingestd.job j join ingestd.queue q on q.id = j.queue_id order by j.id")  # type: ignore[no-any-return]


async def take(conn: asyncpg.Connection, limit: int = 100, node: uuid.UUID = NODE) -> list[Job]:
    """Claim what is due in any queue."""
    queues = {row["id"]: row["name"] for row in await conn.fetch("select id, name from ingestd.queue")}
    kinds = [row[0] for row in await conn.fetch("select distinct kind from ingestd.job")]
    who = Claimant(uuid.uuid4(), node, list(kinds), STORE)
    return await claim.sweep(conn, who, dict.fromkeys(queues, limit), queues)


async def end(conn: asyncpg.Connection, number: int, state: State = State.SUCCEEDED, **how: Any) -> None:
    """Claim everything due and end this one."""
    (job,) = [job for job in await take(conn) if job.id == number]
    assert await ack.ack(conn, [Result(job.id, job.claim, state, **how)]) == {number}


async def put_back(conn: asyncpg.Connection, job: Job, **how: Any) -> None:
    """Return a claimed job to the queue."""
    assert await ack.put_back(conn, [PutBack(job.id, job.claim, **how)]) == {job.id}
