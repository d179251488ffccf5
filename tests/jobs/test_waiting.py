"""What is said of a job that does not run."""

from __future__ import annotations

import uuid
from uuid import UUID

import asyncpg

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.store.queues import pause_queue
from ingestd.jobs.store.waiting import waiting_reason
from tests.jobs.limit_lab import STORE, Narrow, declare, register


async def serve(conn: asyncpg.Connection, queues: list[str], kinds: list[str]) -> UUID:
    """A live node that works on these queues and knows these kinds."""
    node = await register(conn)
    await conn.execute("update ingestd.node set queues = $2, kinds = $3 where id = $1", node, queues, kinds)
    return node


async def why(conn: asyncpg.Connection, job: NewJob) -> str | None:
    (number,) = await enqueue(conn, [job])
    return (await waiting_reason(conn, [number])).get(number)


async def test_nobody_who_could_run_it_is_named_for_what_is_missing(conn: asyncpg.Connection) -> None:
    assert await why(conn, NewJob("k")) == 'no live node knows the kind "k"'
    await serve(conn, ["default"], ["k"])
    assert await why(conn, NewJob("k")) == "waits for a free slot"
    assert await why(conn, NewJob("other")) == 'no live node knows the kind "other"'
    assert await why(conn, NewJob("k", queue="alerts")) == "no live node serves the queue alerts"
    assert await why(conn, NewJob("k", store=STORE)) == "waits for a free slot"
    assert await why(conn, NewJob("k", store=uuid.uuid4())) == "no live node has its files: the one that received them does not run"
    await serve(conn, ["alerts"], ["other"])
    assert await why(conn, NewJob("k", queue="alerts")) == 'no live node that knows the kind "k" serves the queue alerts'


async def test_a_node_that_died_or_does_not_work_is_nobody(conn: asyncpg.Connection) -> None:
    node = await serve(conn, ["default"], ["k"])
    await conn.execute("update ingestd.node set duties = '{serve}' where id = $1", node)
    assert await why(conn, NewJob("k")) == 'no live node knows the kind "k"'
    await conn.execute("update ingestd.node set duties = '{work}', state = 'dead' where id = $1", node)
    assert await why(conn, NewJob("k")) == 'no live node knows the kind "k"'


async def test_a_paused_queue_names_who_paused_it(conn: asyncpg.Connection) -> None:
    await serve(conn, ["default"], ["k"])
    await pause_queue(conn, "default", "maria")
    assert await why(conn, NewJob("k")) == "queue default is paused by maria"


async def test_limits_are_named_with_what_they_are(conn: asyncpg.Connection) -> None:
    queue = await declare(conn, global_concurrency=1, rate="2/1m")
    node = await serve(conn, ["narrow"], ["k"])
    await enqueue(conn, [NewJob("k", queue="narrow"), NewJob("k", queue="narrow")])
    worker = Narrow(conn, queue, node)
    first = await worker.claim()
    assert await why(conn, NewJob("k", queue="narrow")) == "queue narrow runs as many jobs as it may: 1"
    await worker.finish(*first.jobs)
    await worker.finish(*(await worker.claim()).jobs)
    said = await why(conn, NewJob("k", queue="narrow"))
    assert said is not None
    assert said.startswith("queue narrow is at its rate of 2/1m: the next one starts in ")


async def test_a_key_names_the_job_that_has_its_turn(conn: asyncpg.Connection) -> None:
    queue = await declare(conn, global_concurrency=5)
    node = await serve(conn, ["narrow"], ["k"])
    first, second, third = await enqueue(conn, [NewJob("k", queue="narrow", key="a") for _ in range(3)])
    await promote_once(conn)
    reasons = await waiting_reason(conn, [first, second, third])
    assert reasons == {
        first: "waits for a free slot",
        second: f"waits for its turn of a: job {first} is ahead",
        third: f"waits for its turn of a: job {first} is ahead",
    }
    await Narrow(conn, queue, node).claim()
    reasons = await waiting_reason(conn, [first, second])
    assert reasons == {second: f"waits for its turn of a: job {first} runs"}
