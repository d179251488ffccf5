"""Who is woken by an enqueue: only nodes that wait, and none of them in vain or too late."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.store import nodes
from ingestd.postgres.listen import Listener
from ingestd.postgres.pool import Database
from ingestd.postgres.session import connect
from tests.jobs.limit_lab import register
from tests.support import CROWDED, eventually
from tests.work.conftest import Workbench, handler, working

DEFAULT, ALERTS = 1, 5


@asynccontextmanager
async def listening(db: Database, bench: Workbench) -> AsyncIterator[None]:
    """Wake a bench's worker by NOTIFY, as a daemon's listener does."""

    def hear(payload: str) -> None:
        bench.worker.claimer.hear(payload)
        bench.promoter.wake()

    listener = Listener(db, {"ingestd_job": hear})
    await listener.poll()
    try:
        yield
    finally:
        await listener.close()


async def messages(conn: asyncpg.Connection, heard: list[str]) -> list[str]:
    """All that was told up to now: a message of our own comes last."""
    await conn.execute("select pg_notify('ingestd_job', 'the end')")
    await eventually(lambda: "the end" in heard)
    came = heard[: heard.index("the end")]
    heard.clear()
    return came


async def test_nobody_is_told_of_a_job_that_nobody_waits_for(conn: asyncpg.Connection, heard: list[str]) -> None:
    await enqueue(conn, [NewJob("k")])
    await conn.fetchval("select ingestd.enqueue('k')")
    assert await messages(conn, heard) == []


@pytest.mark.parametrize("way", ["one", "many", "sql", "keyed"])
async def test_a_waiting_node_is_told_once_however_many_jobs_come(conn: asyncpg.Connection, heard: list[str], way: str) -> None:
    await nodes.tell_idle(conn, await register(conn), [DEFAULT, ALERTS])
    if way == "sql":
        await conn.fetch("""select ingestd.enqueue_many('[{"kind": "k"}, {"kind": "k"}, {"kind": "k"}]')""")
    else:
        await enqueue(conn, [NewJob("k", key="x" if way == "keyed" else None) for _ in range(1 if way == "one" else 3)])
    # A keyed job cannot be claimed before a promoter has freed it, so it is told apart.
    assert [message.split()[0] for message in await messages(conn, heard)] == ["keys" if way == "keyed" else str(DEFAULT)]


async def test_a_node_that_waits_on_another_queue_is_left_asleep(conn: asyncpg.Connection, heard: list[str]) -> None:
    await nodes.tell_idle(conn, await register(conn), [ALERTS])
    await enqueue(conn, [NewJob("k")])
    assert await messages(conn, heard) == []


async def test_a_node_that_ended_is_not_told_of_anything(conn: asyncpg.Connection, heard: list[str]) -> None:
    from ingestd.work.store import end

    node = await register(conn)
    await nodes.tell_idle(conn, node, [DEFAULT])
    await end(conn, node, "dead")
    await enqueue(conn, [NewJob("k")])
    assert await messages(conn, heard) == []


async def test_an_enqueue_that_was_under_way_while_the_flag_was_set_is_found_by_a_look_soon_after(db: Database, dsn: str) -> None:
    """By hand: it inserts before the node says that it waits, so it tells nobody; it commits after the node has looked once more."""
    began: list[float] = []

    async def note(ctx: Any) -> None:
        began.append(time.monotonic())

    own = await connect(dsn)
    transaction = own.transaction()
    await transaction.start()
    await enqueue(own, [NewJob("note")])
    async with working(db, handler("note", note)) as bench:
        await eventually(lambda: _flagged(db, bench))
        await transaction.commit()
        committed = time.monotonic()
        await eventually(lambda: began)
    await own.close()
    assert began[0] - committed < 1.5 * CROWDED


async def _flagged(db: Database, bench: Workbench, queue: int = DEFAULT) -> bool:
    async with db.services() as conn:
        queues = await conn.fetchval("select queues from ingestd.node_idle where node = $1", bench.node.id)
    return queue in (queues or [])


async def test_a_busy_queue_tells_that_it_no_longer_waits_and_an_idle_one_that_it_does(db: Database) -> None:
    gate = asyncio.Event()

    async def hold(ctx: Any) -> None:
        await gate.wait()

    async with working(db, handler("hold", hold), slots={"default": 2, "alerts": 1}) as bench:
        await eventually(lambda: _flagged(db, bench))
        async with db.services() as conn:
            await enqueue(conn, [NewJob("hold") for _ in range(6)])
        bench.worker.wake()

        async def busy() -> bool:
            return not await _flagged(db, bench) and await _flagged(db, bench, ALERTS)

        await eventually(busy)
        gate.set()
        await eventually(lambda: _flagged(db, bench))


async def test_a_slot_that_gets_free_looks_for_itself_where_nobody_told(db: Database) -> None:
    gates = {n: asyncio.Event() for n in range(3)}
    began: dict[int, float] = {}

    async def hold(ctx: Any, n: int) -> None:
        began[n] = time.monotonic()
        await gates[n].wait()

    async with working(db, handler("hold", hold), slots={"default": 1}) as bench:
        await put(db, NewJob("hold", {"n": 0}))
        bench.worker.wake()
        await eventually(lambda: 0 in began)

        async def told_busy() -> bool:
            return not await _flagged(db, bench)

        await eventually(told_busy)
        await put(db, NewJob("hold", {"n": 1}))
        bench.worker.claimer._sweep_at = time.monotonic() + 3600  # no sweep comes to help
        gates[0].set()
        await eventually(lambda: 1 in began)
        gates[1].set()


async def put(db: Database, *jobs: NewJob) -> None:
    async with db.services() as conn:
        await enqueue(conn, jobs)


@pytest.mark.parametrize("key", [None, "one after the other"])
async def test_jobs_that_come_at_random_moments_start_long_before_the_next_poll(db: Database, dsn: str, key: str | None) -> None:
    began: dict[int, float] = {}
    asked: dict[int, float] = {}

    async def note(ctx: Any, n: int) -> None:
        began[n] = time.monotonic()

    rng = random.Random(3)
    own = await connect(dsn)
    async with working(db, handler("note", note), slots={"default": 2}) as bench, listening(db, bench):
        await eventually(lambda: bench.worker.claimer.lanes, saying="the first sweep, which finds the queues,")
        bench.worker.claimer._sweep_at = time.monotonic() + 3600  # no other one comes to help
        for n in range(60):
            # Bursts and pauses, so that the node is caught at every point between busy and asleep.
            await asyncio.sleep(rng.choice([0, 0, 0.002, 0.01, 0.03, 0.2]))
            await enqueue(own, [NewJob("note", {"n": n}, key=key)])
            asked[n] = time.monotonic()
        await eventually(lambda: len(began) == 60)
    await own.close()
    # Where each has to wait for the one before, it is late only from that one's turn on.
    could = {n: max(asked[n], began.get(n - 1, 0.0)) if key else asked[n] for n in range(60)}
    waits = sorted(began[n] - could[n] for n in range(60))
    assert waits[len(waits) * 3 // 4] < 0.5 * CROWDED, waits


async def test_flags_that_postgres_has_lost_are_told_again(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingestd.work import idle

    monkeypatch.setattr(idle, "RETELL_S", 0.2)

    async def nothing(ctx: Any) -> None:
        pass

    async with working(db, handler("nothing", nothing)) as bench:
        await eventually(lambda: _flagged(db, bench))
        async with db.services() as conn:
            await conn.execute("delete from ingestd.node_idle")
        await eventually(lambda: _flagged(db, bench))


async def test_a_processs_own_enqueues_are_told_to_it_unless_they_are_part_of_a_transaction(db: Database, conn: asyncpg.Connection) -> None:
    from ingestd.jobs.client import Client

    told: list[str] = []
    client = Client(db, lambda jobs: told.append(jobs[0].kind))
    await client.enqueue("k", allow_unknown=True)
    await client.enqueue("k", allow_unknown=True, unique_key="u")
    await client.enqueue_many("k", [{}, {}], allow_unknown=True)
    assert len(told) == 3
    await client.enqueue("k", allow_unknown=True, conn=conn)
    assert len(told) == 3
