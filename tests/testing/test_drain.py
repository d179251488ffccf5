"""A queue is drained in the test's own event loop, retries, follow-ups and workflows included."""

from __future__ import annotations

import asyncpg
import pytest

from ingestd import Client, testing
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from tests.testing import shop


async def test_what_follows_from_a_job_is_run_too(dsn: str) -> None:
    async with Client(dsn):
        await shop.fan.enqueue(suppliers=["a", "b"])
    done = (await testing.drain(dsn, shop.fan, shop.tell)).check()
    assert done.outcomes == [("fan", "succeeded"), ("tell", "succeeded"), ("tell", "succeeded")]
    assert [ran.result for ran in done.of("tell")] == ["told a", "told b"]
    assert done.left == []


async def test_a_module_brings_all_its_jobs(dsn: str) -> None:
    async with Client(dsn):
        await shop.price.enqueue(supplier="acme")
    assert (await testing.drain(dsn, shop)).outcomes == [("price", "succeeded"), ("tell", "succeeded")]


async def test_retries_are_run_when_they_are_due(dsn: str) -> None:
    async with Client(dsn):
        await shop.flaky.enqueue(works_at=3)
    now = await testing.drain(dsn, shop.flaky)
    assert now.outcomes == [("flaky", "retrying")]
    assert [(job.kind, job.state) for job in now.left] == [("flaky", "retrying")]
    later = await testing.drain(dsn, shop.flaky, ahead="5m")
    assert later.outcomes == [("flaky", "retrying"), ("flaky", "succeeded")]
    assert [ran.attempt for ran in later] == [2, 3]
    with pytest.raises(LookupError):
        later.check()


async def test_urgent_jobs_come_first_and_paused_queues_not_at_all(dsn: str, conn: asyncpg.Connection) -> None:
    jobs = [("low", -10, None), ("high", 10, None), ("held", 0, "rollups")]
    await enqueue(conn, [NewJob("tell", {"supplier": name}, priority=priority, queue=queue) for name, priority, queue in jobs])
    await conn.execute("update ingestd.queue set paused_at = now() where name = 'rollups'")
    done = await testing.drain(dsn, shop.tell)
    assert [ran.args["supplier"] for ran in done] == ["high", "low"]
    assert [job.args["supplier"] for job in done.left] == ["held"]


async def test_only_the_queues_that_are_asked_for(dsn: str, conn: asyncpg.Connection) -> None:
    await enqueue(conn, [NewJob("tell", {"supplier": queue}, queue=queue) for queue in ("imports", "default")])
    assert [ran.queue for ran in await testing.drain(dsn, shop.tell, queues=["imports"])] == ["imports"]
    assert [job.queue for job in await testing.enqueued(dsn)] == ["default"]


async def test_jobs_with_one_key_run_in_order(dsn: str, conn: asyncpg.Connection) -> None:
    await enqueue(conn, [NewJob("tell", {"supplier": str(i)}, key="k") for i in range(4)])
    assert [ran.args["supplier"] for ran in await testing.drain(dsn, shop.tell)] == ["0", "1", "2", "3"]


async def test_an_unknown_kind_is_left(dsn: str, conn: asyncpg.Connection) -> None:
    await enqueue(conn, [NewJob("stranger")])
    done = await testing.drain(dsn, shop.tell)
    assert (done.outcomes, [job.kind for job in done.left]) == ([], ["stranger"])


async def test_a_job_that_never_ends_is_told_instead_of_run_for_ever(dsn: str, conn: asyncpg.Connection) -> None:
    await enqueue(conn, [NewJob("outcome", {"wanted": "snooze"})])
    with pytest.raises(AssertionError, match="20 attempts and no end"):
        await testing.drain(dsn, shop.outcome, ahead="2h", limit=20)


async def test_a_missing_job_is_told_with_what_there_is(dsn: str, conn: asyncpg.Connection) -> None:
    await enqueue(conn, [NewJob("tell", {"supplier": "acme"})])
    with pytest.raises(
        AssertionError, match=r"0 jobs mail are enqueued, not one or more; open are:\n  tell {'supplier': 'acme'} in default"
    ):
        await testing.assert_enqueued(dsn, "mail")
    with pytest.raises(AssertionError, match="1 jobs tell"):
        await testing.assert_enqueued(dsn, "tell", count=2)
    assert await testing.assert_enqueued(dsn, "mail", count=0) == []
