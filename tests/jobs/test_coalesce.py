"""Single enqueues that arrive together go together, and each caller hears of its own job only."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from ingestd.errors import InvalidInput
from ingestd.jobs.client import Client
from ingestd.jobs.coalesce import Coalescer
from ingestd.jobs.model import NewJob
from ingestd.postgres.pool import ConnectionLost, Database
from tests.support import eventually


async def test_each_caller_gets_the_id_of_its_own_committed_job(db: Database) -> None:
    coalescer = Coalescer(db)
    ids = await asyncio.gather(*[coalescer.enqueue(NewJob("k", {"n": n})) for n in range(200)])
    async with db.services() as conn:
        rows = await conn.fetch("select id, (args ->> 'n')::int as n from ingestd.job")
    assert {row["id"]: row["n"] for row in rows} == dict(zip(ids, range(200), strict=True))


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


async def test_a_kept_connection_that_has_ended_meanwhile_fails_nobody(db: Database, conn: asyncpg.Connection) -> None:
    coalescer = Coalescer(db, keep=True)
    await coalescer.enqueue(NewJob("k"))
    await conn.fetch("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database()"
                     " and application_name like '%:enqueues'")  # fmt: skip
    await asyncio.sleep(0.1)
    await coalescer.enqueue(NewJob("k"))
    await coalescer.close()


async def test_a_session_that_takes_no_writes_is_not_kept(dsn: str, conn: asyncpg.Connection) -> None:
    name = await conn.fetchval("select current_database()")
    async with Client(dsn) as client:
        # What its role may do is known from here on.
        await client.enqueue("k", allow_unknown=True)
        await conn.execute(f'alter database "{name}" set default_transaction_read_only = on')
        with pytest.raises(ConnectionLost, match="takes no writes"):
            await client.enqueue("k", allow_unknown=True)
        await conn.execute(f'set default_transaction_read_only = off; alter database "{name}" reset default_transaction_read_only')
        await client.enqueue("k", allow_unknown=True)


async def test_whoever_waits_is_told_when_the_sender_is_ended_from_outside(db: Database, conn: asyncpg.Connection) -> None:
    coalescer = Coalescer(db, keep=True)
    async with conn.transaction():
        await conn.execute("lock table ingestd.job")
        under_way = asyncio.create_task(coalescer.enqueue(NewJob("k")))
        await eventually(lambda: _blocked(db))
        waiting = asyncio.create_task(coalescer.enqueue(NewJob("k")))
        await asyncio.sleep(0)
        next(task for task in asyncio.all_tasks() if task.get_name() == "enqueue").cancel()
        async with asyncio.timeout(5):
            answers = await asyncio.gather(under_way, waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionLost, ConnectionLost]
    assert await coalescer.enqueue(NewJob("k"))
    await coalescer.close()


async def test_closing_waits_for_no_server_that_does_not_answer(db: Database, conn: asyncpg.Connection) -> None:
    coalescer = Coalescer(db, keep=True)
    async with conn.transaction():
        await conn.execute("lock table ingestd.job")
        under_way = asyncio.create_task(coalescer.enqueue(NewJob("k")))
        await eventually(lambda: _blocked(db))
        async with asyncio.timeout(5):
            await coalescer.close(0.1)
        assert not under_way.done()
    assert await under_way
    # What comes after the end, or ends after it, keeps nothing.
    assert await coalescer.enqueue(NewJob("k"))
    await eventually(lambda: not db._lent["enqueues"])


async def _blocked(db: Database) -> bool:
    async with db.services() as conn:
        return bool(await conn.fetchval("select exists (select from pg_locks where not granted and relation = 'ingestd.job'::regclass)"))
