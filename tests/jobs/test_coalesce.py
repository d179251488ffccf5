"""Single enqueues that arrive together go together, and each caller hears of its own job only."""

from __future__ import annotations

import asyncio

import pytest

from ingestd.errors import InvalidInput
from ingestd.jobs.coalesce import Coalescer
from ingestd.jobs.model import NewJob
from ingestd.postgres.pool import Database


async def test_each_caller_gets_the_id_of_its_own_committed_job(db: Database) -> None:
    coalescer = Coalescer(db)
    ids = await asyncio.gather(*[coalescer.enqueue(NewJob("k", {"n": n})) for n in range(200)])
    async with db.services() as conn:
        rows = await conn.fetch("select id, (args ->> 'n')::int as n from ingestd.job")
    assert {row["id"]: row["n"] for row in rows} == dict(zip([job_id for job_id, _ in ids], range(200), strict=True))


async def test_a_job_that_cannot_be_enqueued_harms_nobody_else(db: Database) -> None:
    coalescer = Coalescer(db)
    jobs = [NewJob("k", queue="no_such_queue" if n == 7 else None) for n in range(20)]
    answers = await asyncio.gather(*[coalescer.enqueue(job) for job in jobs], return_exceptions=True)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, InvalidInput)] == [7]
    async with db.services() as conn:
        assert await conn.fetchval("select count(*) from ingestd.job") == 19


async def test_without_a_database_every_caller_is_told(db: Database) -> None:
    coalescer = Coalescer(db)
    await db.close()
    with pytest.raises(Exception):  # noqa: B017 - which one depends on where the pool was
        await coalescer.enqueue(NewJob("k"))
