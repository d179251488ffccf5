"""Rows that other rooms would write, put in place directly."""

from __future__ import annotations

import secrets
from uuid import uuid4

import asyncpg

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.store.ack import Result, ack


async def take(conn: asyncpg.Connection, job: int) -> Result:
    """Claim a job, and return a result that succeeds."""
    claim = uuid4()
    await conn.execute(
        "update ingestd.job set claim = $2, node = $2, claimed_at = now(), attempt = attempt + 1, parked = 0 where id = $1", job, claim
    )
    return Result(job, claim, State.SUCCEEDED, duration_ms=12)


async def finish_job(conn: asyncpg.Connection, job: int) -> None:
    """Let a job succeed."""
    assert await ack(conn, [await take(conn, job)]) == {job}


async def fail_job(conn: asyncpg.Connection, job: int, message: str = "boom", reason: str | None = None) -> None:
    """Let a job fail for good."""
    taken = await take(conn, job)
    error = {"class": "ValueError", "message": message, "traceback": "Traceback …"}
    failed = Result(job, taken.claim, State.FAILED, error=error, reason=reason or message, duration_ms=5)
    assert await ack(conn, [failed]) == {job}


async def new_load(
    conn: asyncpg.Connection,
    import_name: str,
    file: str,
    *,
    status: str = "succeeded",
    read: int = 0,
    inserted: int = 0,
    rejected: int = 0,
    reason: str | None = None,
    with_job: bool = False,
) -> int:
    """A load as the lane leaves it."""
    store = uuid4()
    file_id = await conn.fetchval(
        "insert into ingestd.file (sha256, size, store, path) values ($1, 10, $2, 'kept/x') returning id", secrets.token_bytes(32), store
    )
    arrival = await conn.fetchval(
        """insert into ingestd.arrival (import, store, path, name, size, mtime_ns, file_id)
        values ($1, $2, $3, $4, 10, 1, $5) returning id""",
        import_name, store, f"/inbox/{file}", file, file_id,
    )  # fmt: skip
    load: int = await conn.fetchval(
        """insert into ingestd.load (import, target, mode, arrival_id, file_id, file_name, status, reason, read, inserted, updated,
        unchanged, rejected, superseded, bytes, triggered_by, started_at, finished_at, duration_ms)
        values ($1, $2, 'append', $3, $4, $5, $6, $7, $8, $9, 0, 0, $10, 0, 10, 'folder', now(), now(), 8) returning id""",
        import_name, f"public.{import_name}", arrival, file_id, file, status, reason, read, inserted, rejected,
    )  # fmt: skip
    if with_job:
        (job,) = await enqueue(conn, [NewJob("load", {"load": load}, queue="imports", store=store)])
        await fail_job(conn, job)
        await conn.execute("update ingestd.load set job_id = $2 where id = $1", load, job)
    return load
