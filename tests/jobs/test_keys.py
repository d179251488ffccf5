"""Jobs of one key: one at a time or as many as the queue says, in their order, whoever frees them."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.settings import QueueSettings
from ingestd.jobs.store import ack, promote
from ingestd.jobs.store.queues import declare_queue
from ingestd.postgres.session import connect
from tests.jobs import kit
from tests.support import CROWDED

FREE = "select id from ingestd.job where key is not null and parked = 0 order by id"


async def free(conn: asyncpg.Connection) -> list[int]:
    await promote_once(conn)
    return [row["id"] for row in await conn.fetch(FREE)]


async def keyed(conn: asyncpg.Connection, count: int, key: str = "a", **options: object) -> list[int]:
    return await enqueue(conn, [NewJob("sync", key=key, **options) for _ in range(count)])  # type: ignore[arg-type]


async def allow(conn: asyncpg.Connection, count: int) -> None:
    await declare_queue(conn, "default", QueueSettings(key_concurrency=count))


@pytest.mark.parametrize(("allowed", "expected"), [(0, 1), (1, 1), (3, 3)])
async def test_as_many_jobs_of_a_key_are_free_as_its_queue_says(conn: asyncpg.Connection, allowed: int, expected: int) -> None:
    await allow(conn, allowed)
    ids = await keyed(conn, 5)
    assert await free(conn) == ids[:expected]
    assert await free(conn) == ids[:expected]


async def test_a_place_that_gets_free_goes_to_the_oldest(conn: asyncpg.Connection) -> None:
    await allow(conn, 2)
    ids = await keyed(conn, 4)
    assert await free(conn) == ids[:2]
    await kit.end(conn, ids[1])
    assert set(await free(conn)) | {ids[0]} == {ids[0], ids[2]}


async def test_keys_do_not_wait_for_each_other(conn: asyncpg.Connection) -> None:
    one, other = await keyed(conn, 2, "a"), await keyed(conn, 2, "b")
    assert await free(conn) == [one[0], other[0]]


async def test_a_strict_key_has_one_place_whatever_the_queue_says(conn: asyncpg.Connection) -> None:
    await allow(conn, 3)
    ids = await keyed(conn, 3, key_strict=True)
    assert await free(conn) == ids[:1]


async def test_a_retrying_job_lets_the_next_go_first_and_stands_in_line_again(conn: asyncpg.Connection) -> None:
    """Left free until it is due, it would run at the same time as the one that went first."""
    first, second = await keyed(conn, 2)
    await promote_once(conn)
    (job,) = [job for job in await kit.take(conn) if job.id == first]
    await kit.put_back(conn, job, delay=timedelta(seconds=60), spent=True)
    assert await free(conn) == [second]
    await conn.execute("update ingestd.job set run_at = now() where id = $1", first)
    assert await free(conn) == [second]
    await kit.end(conn, second)
    assert await free(conn) == [first]


async def test_a_strict_keys_retrying_job_keeps_its_place(conn: asyncpg.Connection) -> None:
    first, _ = await keyed(conn, 2, key_strict=True)
    await promote_once(conn)
    (job,) = await kit.take(conn)
    await kit.put_back(conn, job, delay=timedelta(seconds=60), spent=True)
    assert await free(conn) == [first]


async def test_what_is_due_goes_before_what_is_older_and_due_later(conn: asyncpg.Connection) -> None:
    later = (await conn.fetchval("select now() + interval '1 hour'")).astimezone()
    (scheduled,) = await keyed(conn, 1, run_at=later)
    assert await free(conn) == [scheduled]
    (now,) = await keyed(conn, 1)
    assert await free(conn) == [now]


async def test_promoters_that_look_at_different_moments_never_free_two(dsn: str, conn: asyncpg.Connection) -> None:
    """An older id that commits later, between the looks of two promoters: without their lock each frees another one."""
    slow, rival = await connect(dsn), await connect(dsn)
    late = slow.transaction()
    await late.start()
    (older,) = await keyed(slow, 1)
    (younger,) = await keyed(conn, 1)
    first = conn.transaction()
    await first.start()
    assert {row["id"] for row in await promote.unpark_keys(conn)} == {younger}
    await late.commit()
    second = asyncio.create_task(promote_once(rival))
    await asyncio.sleep(0.02)
    await first.commit()
    await second
    assert await free(conn) == [younger]
    assert await conn.fetchval("select parked from ingestd.job where id = $1", older) == 2
    await slow.close()
    await rival.close()


async def test_many_promoters_and_claimers_never_run_more_of_a_key_than_allowed(dsn: str, conn: asyncpg.Connection) -> None:
    allowed, keys = 2, 3
    await allow(conn, allowed)
    for n in range(60):
        await keyed(conn, 1, f"k{n % keys}")
    most: dict[str, int] = {}

    async def work() -> None:
        own = await connect(dsn)
        while await own.fetchval("select exists (select from ingestd.job)"):
            await promote_once(own)
            jobs = await kit.take(own, 2)
            for row in await own.fetch("select key, count(*) as n from ingestd.job where claim is not null group by 1"):
                most[row["key"]] = max(most.get(row["key"], 0), row["n"])
            await ack.ack(own, [ack.Result(job.id, job.claim, State.SUCCEEDED) for job in jobs])
        await own.close()

    async with asyncio.timeout(60):
        await asyncio.gather(*(work() for _ in range(3)))
    assert max(most.values()) <= allowed
    began = await conn.fetch("select key, array_agg(id order by started_at, id) as ids from ingestd.history group by 1")
    assert sum(len(row["ids"]) for row in began) == 60


async def test_a_long_line_behind_one_key_is_not_walked_by_every_pass(conn: asyncpg.Connection) -> None:
    await conn.execute(
        """insert into ingestd.job (kind, queue_id, key, parked) select 'sync', 1, 'k' || (i % 20), 2 from generate_series(1, 40000) i"""
    )
    await conn.execute("vacuum analyze ingestd.job")
    assert len(await free(conn)) == 20
    plan = "\n".join(row[0] for row in await conn.fetch(f"explain (analyze, buffers) {promote.KEYS}"))
    assert "Seq Scan on job" not in plan
    began = time.perf_counter()
    await promote_once(conn)
    assert time.perf_counter() - began < 1.0 * CROWDED, plan
