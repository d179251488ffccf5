"""Limited queues: never more than the limit at any instant, always as many, and nothing that leaks."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import Job, NewJob
from ingestd.jobs.settings import Rate, parse_rate
from ingestd.jobs.store import claim as claim_store
from ingestd.jobs.store import limits
from ingestd.jobs.store.claim import Claimant
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.session import connect
from tests.jobs.limit_lab import STORE, Narrow, declare, register
from tests.support import CROWDED, eventually

LIVE = "select count(*) from ingestd.job where queue_id = $1 and claim is not null"


@pytest.fixture
async def second(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    other = await connect(dsn)
    yield other
    await other.close()


async def put(conn: asyncpg.Connection, count: int, **options: object) -> list[int]:
    return await enqueue(conn, [NewJob("k", queue="narrow", **options) for _ in range(count)])  # type: ignore[arg-type]


async def test_no_more_are_claimed_than_all_nodes_may_run_together(conn: asyncpg.Connection, second: asyncpg.Connection) -> None:
    queue = await declare(conn, global_concurrency=3)
    one, two = Narrow(conn, queue, await register(conn)), Narrow(second, queue, await register(conn))
    await put(conn, 10)
    first = await one.claim(2)
    rest = await two.claim(100)
    assert (len(first.jobs), len(rest.jobs)) == (2, 1)
    assert (await one.claim()).jobs == []
    await one.finish(*first.jobs)
    assert len((await two.claim()).jobs) == 2


async def test_a_claim_that_was_under_way_is_counted_by_the_next(conn: asyncpg.Connection, second: asyncpg.Connection) -> None:
    queue = await declare(conn, global_concurrency=1)
    one, two = Narrow(conn, queue, await register(conn)), Narrow(second, queue, await register(conn))
    await put(conn, 2)
    transaction = conn.transaction()
    await transaction.start()
    assert len((await one.claim()).jobs) == 1
    assert (await two.claim()).busy
    await transaction.commit()
    after = await two.claim()
    assert (after.jobs, after.busy) == ([], False)
    assert after.room is not None
    assert after.room.running == 0


async def test_the_claims_for_all_queues_leave_a_limited_one_alone(conn: asyncpg.Connection) -> None:
    queue = await declare(conn, global_concurrency=1)
    await put(conn, 3)
    await conn.execute("update ingestd.job set crashes = 1 where id = (select max(id) from ingestd.job)")
    who = Claimant(uuid.uuid4(), await register(conn), ["k"], STORE)
    names = {queue: "narrow"}
    bounds: tuple[list[int], list[object], list[int]] = ([0], [await conn.fetchval("select 'epoch'::timestamptz")], [0])
    assert await claim_store.claim(conn, who, queue, "narrow", 10, bounds) == []  # type: ignore[arg-type]
    assert await claim_store.sweep(conn, who, {queue: 10}, names) == []
    assert await claim_store.claim_suspect(conn, who, names) == []
    suspect = await limits.claim_suspect_within_limit(conn, who, queue, "narrow")
    assert [job.crashes for job in suspect.jobs] == [1]
    assert (await Narrow(conn, queue, who.node).claim()).jobs == []


async def test_a_paused_queue_gives_nothing_within_its_limits_either(conn: asyncpg.Connection) -> None:
    queue = await declare(conn, global_concurrency=5)
    await put(conn, 1)
    await conn.execute("update ingestd.queue set paused_at = now() where id = $1", queue)
    taken = await Narrow(conn, queue, await register(conn)).claim()
    assert (taken.jobs, taken.room) == ([], None)


async def test_a_dead_nodes_jobs_count_until_they_are_rescued(conn: asyncpg.Connection) -> None:
    queue = await declare(conn, global_concurrency=2)
    dead, alive = Narrow(conn, queue, await register(conn)), Narrow(conn, queue, await register(conn))
    await put(conn, 4)
    assert len((await dead.claim()).jobs) == 2
    await conn.execute("update ingestd.node set state = 'dead', ended_at = now() where id = $1", dead.node)
    assert (await alive.claim()).jobs == []


async def test_a_rate_lets_its_burst_through_and_says_when_the_next_is_due(conn: asyncpg.Connection) -> None:
    queue = await declare(conn, rate="5/1m")
    node = Narrow(conn, queue, await register(conn))
    await put(conn, 20)
    got = [await node.claim(2), await node.claim(2), await node.claim(2)]
    assert [len(taken.jobs) for taken in got] == [2, 2, 1]
    refused = await node.claim()
    assert refused.jobs == []
    assert refused.room is not None
    assert 50 < refused.room.wait_s <= 62


async def test_permits_that_were_not_used_are_not_spent(conn: asyncpg.Connection) -> None:
    queue = await declare(conn, rate="5/1m")
    node = Narrow(conn, queue, await register(conn))
    await put(conn, 1)
    assert len((await node.claim()).jobs) == 1
    assert (await node.claim()).jobs == []
    room = await limits.room_of(conn, queue)
    assert room is not None
    assert room.starts == 4


async def test_a_rate_is_remembered_in_a_hundred_entries_however_often_it_is_claimed(conn: asyncpg.Connection) -> None:
    queue = await declare(conn, rate="1000/1s")
    node = Narrow(conn, queue, await register(conn))
    await put(conn, 300)
    for _ in range(300):
        await node.claim(1)
    kept = await conn.fetchval("select cardinality(at) from ingestd.queue_rate where queue_id = $1", queue)
    assert 1 <= kept <= 103


async def test_a_clock_set_back_stops_a_rate_for_one_period_at_most(conn: asyncpg.Connection) -> None:
    queue = await declare(conn, rate="2/1s")
    node = Narrow(conn, queue, await register(conn))
    await put(conn, 2)
    await conn.execute("insert into ingestd.queue_rate values ($1, array[now() + interval '1 day'], array[2])", queue)
    taken = await node.claim()
    assert taken.room is not None
    assert 0 < taken.room.wait_s <= 1.03


@pytest.mark.parametrize(
    ("text", "count", "period"), [("100/1m", 100, "1m"), ("5 / 10s", 5, "10s"), ("1/h", 1, "1h"), ("", 0, "0"), ("3/1h30m", 3, "1h30m")]
)
def test_a_rate_is_read_as_it_is_written(text: str, count: int, period: str) -> None:
    from ingestd.settings import parse_duration

    assert parse_rate(text) == Rate(count, parse_duration(period))


@pytest.mark.parametrize("text", ["fast", "100", "0/1m", "-1/1m", "10/0s", "10/1y", "1.5/1m", "9999999999/1s", "10/40d", "/1m", 7])
def test_what_is_no_rate_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"rate|duration"):
        parse_rate(text)


async def test_three_claimers_never_exceed_a_limit_and_always_reach_it(dsn: str, conn: asyncpg.Connection) -> None:
    """One of their backends is killed in the middle, again and again; every claim they make is counted at the moment it is made."""
    limit, jobs = 4, 240
    queue = await declare(conn, global_concurrency=limit)
    # The server itself keeps the score, under the lock of the row it counts in: no look from outside could see every instant.
    await conn.execute(
        """
        create table seen (live integer not null);
        create function count_live() returns trigger language plpgsql as $$
        begin
            insert into seen select count(*) from ingestd.job where queue_id = new.queue_id and claim is not null;
            return null;
        end $$;
        create trigger count_live after update of claim on ingestd.job for each row when (new.claim is not null)
            execute function count_live()
        """
    )
    await put(conn, jobs)
    nodes = [await register(conn) for _ in range(3)]
    finished: set[int] = set()
    pids: dict[int, int] = {}
    rng = random.Random(7)

    async def work(number: int) -> None:
        node = nodes[number]
        while len(finished) < jobs:
            own = await connect(dsn)
            pids[number] = own.get_server_pid()
            try:
                # Whatever the session before this one took and lost is given back, as a node does.
                for row in await claim_store.held(own, node):
                    await claim_store.release_claim(own, node, row["claim"])
                while len(finished) < jobs:
                    taken = await Narrow(own, queue, node).claim(rng.randint(1, 6))
                    await asyncio.sleep(rng.random() * 0.002)
                    for job in taken.jobs:
                        await Narrow(own, queue, node).finish(job)
                        finished.add(job.id)
            except (*OUTAGE, asyncpg.PostgresError):
                finished.update(await _ended(dsn, node))
            finally:
                own.terminate()

    async def kill() -> None:
        while len(finished) < jobs:
            await asyncio.sleep(0.03)
            await conn.execute("select pg_terminate_backend($1)", pids.get(rng.randrange(3), 0))

    async with asyncio.timeout(120):
        await asyncio.gather(*(work(number) for number in range(3)), kill())
    assert len(finished) == jobs
    most = await conn.fetchval("select max(live) from seen")
    assert most == limit


async def _ended(dsn: str, node: uuid.UUID) -> list[int]:
    look = await connect(dsn)
    try:
        return [row["id"] for row in await look.fetch("select id from ingestd.history where node = $1", node)]
    finally:
        await look.close()


async def test_a_rate_is_never_exceeded_in_any_window_and_spent_to_the_full(dsn: str, conn: asyncpg.Connection) -> None:
    count, period, jobs = 20, 0.5, 100
    queue = await declare(conn, rate=f"{count}/500ms", global_concurrency=50)
    await put(conn, jobs)
    taken: list[Job] = []

    async def work() -> None:
        own = await connect(dsn)
        node = Narrow(own, queue, await register(own))
        while len(taken) < jobs:
            found = await node.claim(random.Random(len(taken)).randint(1, 9))
            taken.extend(found.jobs)
            await node.finish(*found.jobs)
            await asyncio.sleep(0.004)
        await own.close()

    async with asyncio.timeout(60):
        await asyncio.gather(*(work() for _ in range(3)))
    began = [row["started_at"] for row in await conn.fetch("select started_at from ingestd.history order by started_at")]
    assert len(began) == jobs
    windows = [began[n + count] - began[n] for n in range(len(began) - count)]
    # A claim is dated when its transaction began, which may have waited for the queue's lock since.
    assert min(windows) >= timedelta(seconds=0.9 * period)
    # The first of them runs at once, the last after four more periods; a rate left half unused would take twice as long.
    assert began[-1] - began[0] < timedelta(seconds=7 * period) * CROWDED


async def test_a_node_that_was_stopped_in_the_middle_of_a_claim_holds_nobody_up_for_long(
    conn: asyncpg.Connection, second: asyncpg.Connection
) -> None:
    queue = await declare(conn, global_concurrency=3)
    one, two = Narrow(conn, queue, await register(conn)), Narrow(second, queue, await register(conn))
    await put(conn, 3)
    # What SIGSTOP leaves behind: a transaction with the lock, and nobody who goes on with it.
    await second.transaction().start()
    assert len((await two.claim()).jobs) == 3
    assert (await one.claim()).busy

    async def freed() -> list[Job]:
        return (await one.claim()).jobs

    assert len(await eventually(freed, every_s=0.2)) == 3
