"""Waiting for what comes of a job, with and without an event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest

from ingestd import Client, SyncClient
from ingestd.errors import InvalidInput, JobCancelled, JobFailed, NotFound, UsageError
from ingestd.jobs.model import State
from ingestd.jobs.store.ack import Result, ack
from tests.jobs.kit import end, take


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[Client]:
    async with Client(dsn) as opened:
        yield opened


@pytest.fixture
def sync_client(dsn: str) -> Iterator[SyncClient]:
    with SyncClient(dsn) as opened:
        yield opened


# results


async def test_a_result_is_what_the_handler_returned(client: Client, conn: asyncpg.Connection) -> None:
    handle = await client.enqueue("sync", allow_unknown=True)
    waiting = [asyncio.create_task(handle.result(timeout=20)) for _ in range(3)]
    await end(conn, handle.id, result={"rows": 3})
    assert await asyncio.gather(*waiting) == [{"rows": 3}] * 3
    assert await handle.result("5s") == {"rows": 3}, "also when it has been final for long"


async def test_failure_and_cancellation_raise_with_the_reason(client: Client, conn: asyncpg.Connection) -> None:
    failed, cancelled, without = [await client.enqueue("sync", allow_unknown=True) for _ in range(3)]
    jobs = {job.id: job for job in await take(conn)}
    error = {"class": "ValueError", "message": "no such supplier", "traceback": "…"}
    results = [
        Result(failed.id, jobs[failed.id].claim, State.FAILED, error=error),
        Result(cancelled.id, jobs[cancelled.id].claim, State.CANCELLED, reason="cancelled by ann"),
        Result(without.id, jobs[without.id].claim, State.SUCCEEDED),
    ]
    await ack(conn, results)
    with pytest.raises(JobFailed, match=rf"^job {failed.id} failed: ValueError: no such supplier$") as raised:
        await failed.result()
    assert (raised.value.job_id, raised.value.error) == (failed.id, error)
    with pytest.raises(JobCancelled, match=rf"^job {cancelled.id} cancelled: cancelled by ann$"):
        await cancelled.result()
    assert await without.result() is None


async def test_waiting_has_a_limit_and_others_go_on_waiting(client: Client, conn: asyncpg.Connection) -> None:
    handle = await client.enqueue("sync", allow_unknown=True)
    patient = asyncio.create_task(handle.result())
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0.05)
    await end(conn, handle.id, result=1)
    assert await asyncio.wait_for(patient, 20) == 1


async def test_a_job_that_is_not_there_is_told(client: Client, conn: asyncpg.Connection) -> None:
    tx = conn.transaction()
    await tx.start()
    handle = await client.enqueue("sync", allow_unknown=True, conn=conn)
    with pytest.raises(NotFound, match="or the transaction it was enqueued in is not committed"):
        await handle.result(timeout=20)
    await tx.rollback()


async def test_those_who_wait_are_told_when_the_client_closes(dsn: str) -> None:
    async with Client(dsn) as client:
        waiting = asyncio.create_task((await client.enqueue("sync", allow_unknown=True)).result())
        await asyncio.sleep(0)
    with pytest.raises(UsageError, match="the client was closed"):
        await asyncio.wait_for(waiting, 20)


# without an event loop


async def test_many_threads_share_one_sync_client(sync_client: SyncClient, conn: asyncpg.Connection) -> None:
    def work() -> set[int]:
        with ThreadPoolExecutor(8) as threads:
            return set(threads.map(lambda n: sync_client.enqueue("sync", {"n": n}, allow_unknown=True).id, range(200)))

    assert len(await asyncio.to_thread(work)) == 200
    assert await conn.fetchval("select count(distinct args ->> 'n') from ingestd.job") == 200
    assert len([one for one in threading.enumerate() if one.name == "ingestd-client"]) == 1


async def test_the_sync_client_waits_and_tells_as_the_other_does(sync_client: SyncClient, conn: asyncpg.Connection) -> None:
    handle = await asyncio.to_thread(sync_client.enqueue, "sync", {"n": 1}, allow_unknown=True, unique_key="k")
    again = await asyncio.to_thread(sync_client.enqueue, "sync", allow_unknown=True, unique_key="k", unique_mode="replace")
    assert (handle.created, again.created, again.changed) == (True, False, True)
    status = await asyncio.to_thread(handle.status)
    assert status is not None
    assert status["state"] == "available"
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(handle.result, 0.05)
    await end(conn, handle.id, result=[1])
    assert await asyncio.to_thread(handle.result, "20s") == [1]
    assert await asyncio.to_thread(sync_client.result, handle.id) == [1]
    many = await asyncio.to_thread(sync_client.enqueue_many, "sync", [{"n": 1}, {"n": 2}], allow_unknown=True)
    assert [one.created for one in many] == [True, True]
    with pytest.raises(InvalidInput, match="no node knows the kind"):
        await asyncio.to_thread(sync_client.enqueue, "snyc")


async def test_a_closed_sync_client_says_so_and_leaves_no_thread(dsn: str) -> None:
    def work() -> None:
        client = SyncClient(dsn)
        client.close()
        with SyncClient(dsn) as used:
            used.enqueue("sync", allow_unknown=True)
        used.close()
        for closed in (client, used):
            with pytest.raises(UsageError, match="the client is closed"):
                closed.enqueue("sync", allow_unknown=True)

    await asyncio.to_thread(work)
    assert not [one for one in threading.enumerate() if one.name == "ingestd-client"]


FORKING = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # that threads are forked is what is tested
from ingestd import SyncClient

client = SyncClient(sys.argv[1])
client.enqueue("before", allow_unknown=True)
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        client.enqueue("child", {"n": number}, allow_unknown=True)
        client.close()
        sys.exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
client.enqueue("after", allow_unknown=True)
client.close()
print(codes)
"""


async def test_forked_servers_each_have_their_own_connections(dsn: str, conn: asyncpg.Connection) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORKING, dsn, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, problems = await asyncio.wait_for(process.communicate(), 60)
    assert out.decode().strip() == "[0, 0, 0]", problems.decode()
    kinds = [row["kind"] for row in await conn.fetch("select kind from ingestd.job order by id")]
    assert (kinds[0], sorted(kinds[1:4]), kinds[4]) == ("before", ["child"] * 3, "after")
