"""Single enqueues that arrive together go together, and each caller hears of its own job only."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from ingestd.errors import InvalidInput
from ingestd.jobs.client import Client
from ingestd.jobs.coalesce import Coalescer
from ingestd.jobs.model import NewJob
from ingestd.postgres.outage import ConnectionLost
from ingestd.postgres.pool import Database
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
        alone = asyncio.create_task(coalescer.enqueue(NewJob("k")))
        await eventually(lambda: _blocked(db))
        waiting = [asyncio.create_task(coalescer.enqueue(NewJob("k"))) for _ in range(2)]
        await asyncio.sleep(0)
        alone.cancel()
        await asyncio.wait([alone])
        await eventually(lambda: _blocked(db))
        next(task for task in asyncio.all_tasks() if task.get_name() == "enqueue").cancel()
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert alone.cancelled()
    assert [type(answer) for answer in answers] == [ConnectionLost, ConnectionLost]
    assert await coalescer.enqueue(NewJob("k"))
    await coalescer.close()


@pytest.mark.parametrize("keep", [True, False])
async def test_whoever_came_behind_a_caller_that_gives_up_is_enqueued_all_the_same(
    db: Database, conn: asyncpg.Connection, keep: bool
) -> None:
    coalescer = Coalescer(db, keep=keep)
    async with conn.transaction():
        await conn.execute("lock table ingestd.job")
        alone = asyncio.create_task(coalescer.enqueue(NewJob("alone")))
        await eventually(lambda: _blocked(db))
        behind = [asyncio.create_task(coalescer.enqueue(NewJob("k", {"n": n}))) for n in range(3)]
        await asyncio.sleep(0)
        alone.cancel()
        closing = asyncio.create_task(coalescer.close())
        await asyncio.wait([alone])
    async with asyncio.timeout(20):
        ids = await asyncio.gather(*behind)
        await closing
    assert [tuple(row) for row in await conn.fetch("select id from ingestd.job where kind = 'k' order by id")] == [(each,) for each in ids]
    await eventually(lambda: not db._lent["enqueues"])


async def test_a_job_at_fault_costs_no_connection(db: Database) -> None:
    coalescer = Coalescer(db, keep=True)
    await coalescer.enqueue(NewJob("k"))
    (kept,) = db._lent["enqueues"]
    with pytest.raises(InvalidInput, match="no_such_queue"):
        await coalescer.enqueue(NewJob("k", queue="no_such_queue"))
    await coalescer.enqueue(NewJob("k"))
    assert db._lent["enqueues"] == {kept}
    await coalescer.close()


async def test_jobs_that_come_together_keep_all_that_is_said_about_each(db: Database, conn: asyncpg.Connection) -> None:
    coalescer = Coalescer(db)
    said = [
        NewJob("k", {"n": n}, priority=n % 3, tags=("t",) * (n % 2), metadata={"is": n % 2 == 1} if n > 15 else None) for n in range(20)
    ]
    alike = [NewJob("same", {"n": n}, priority=7, tags=("t",), notes="n", correlation_id="c", max_attempts=2) for n in range(20)]
    for jobs in (said, alike):
        ids = await asyncio.gather(*map(coalescer.enqueue, jobs))
        rows = {row["id"]: row for row in await conn.fetch("select * from ingestd.job where id = any ($1::bigint[])", ids)}
        for job_id, job in zip(ids, jobs, strict=True):
            row = rows[job_id]
            assert (row["kind"], row["args"], -row["rank"], tuple(row["tags"]), row["metadata"]) == (
                job.kind, job.args, job.priority or 0, job.tags, job.metadata,
            )  # fmt: skip
            assert (row["notes"], row["correlation_id"], row["max_attempts"]) == (job.notes, job.correlation_id, job.max_attempts or 4)


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
