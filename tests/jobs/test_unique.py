"""Unique keys: one job a key, whoever asks, however often, through whichever entrance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from ingestd import Client
from ingestd.jobs.enqueue import enqueue, enqueue_told
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.store.jobs import forget_holds
from ingestd.postgres.session import connect
from tests.jobs.kit import end, rows, take
from tests.support import eventually

EACH = "select * from ingestd.enqueue_each($1)"


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[Client]:
    async with Client(dsn) as opened:
        yield opened


async def ask(conn: asyncpg.Connection, **options: Any) -> tuple[int, bool, bool]:
    (told,) = await enqueue_told(conn, [NewJob("sync", unique_key="k", **options)])
    return tuple(told)


async def test_sixty_four_callers_with_one_key_get_one_job_and_no_error(client: Client, conn: asyncpg.Connection) -> None:
    handles = await asyncio.gather(*(client.enqueue("sync", unique_key="k", allow_unknown=True) for _ in range(64)))
    assert len({handle.id for handle in handles}) == 1
    assert [handle.created for handle in handles].count(True) == 1
    assert len(await rows(conn)) == 1


@pytest.mark.parametrize("options", [{}, {"unique_for": "1 day"}, {"unique_mode": "replace"}, {"unique_mode": "reschedule"}])
async def test_sixty_four_connections_at_once_make_one_job(dsn: str, conn: asyncpg.Connection, options: dict[str, str]) -> None:
    others = [await connect(dsn) for _ in range(16)]
    try:
        for turn in range(4):
            asked = [{"kind": "sync", "unique_key": f"k{turn}", "args": {"n": 1}, **options}]
            told = await asyncio.gather(*(one.fetchrow(EACH, asked) for one in others))
            assert len({row["id"] for row in told}) == 1
            assert [row["existing"] for row in told].count(False) == 1
    finally:
        for one in others:
            await one.close()
    assert len(await rows(conn)) == 4


async def test_batches_with_the_same_keys_in_any_order_do_not_wait_for_each_other_in_a_ring(dsn: str, conn: asyncpg.Connection) -> None:
    others = [await connect(dsn) for _ in range(6)]
    keys = [f"k{n:02}" for n in range(40)]
    try:
        for turn in range(5):
            orders = [keys if n % 2 else keys[::-1] for n in range(len(others))]
            ids = await asyncio.gather(
                *(
                    enqueue(one, [NewJob("sync", unique_key=f"{turn}{key}") for key in order])
                    for one, order in zip(others, orders, strict=True)
                )
            )
            assert ids[0] == ids[1][::-1] == ids[2]
    finally:
        for one in others:
            await one.close()


async def test_ids_come_in_the_order_of_the_list_whatever_the_keys(conn: asyncpg.Connection) -> None:
    keys = ["z", None, "a", None, "z", "m"]
    told = await enqueue_told(conn, [NewJob("sync", {"n": n}, unique_key=key) for n, key in enumerate(keys)])
    assert [one.existing for one in told] == [False, False, False, False, True, False]
    assert told[4].id == told[0].id
    made = [one.id for one in told if not one.existing]
    assert made == sorted(made)
    assert {row["id"]: row["args"]["n"] for row in await rows(conn)} == {told[n].id: n for n in (0, 1, 2, 3, 5)}


# what happens to the one that is there


async def test_by_default_it_is_left_alone(conn: asyncpg.Connection) -> None:
    first = await ask(conn, args={"n": 1})
    assert await ask(conn, args={"n": 2}, priority=50) == (first[0], True, False)
    (row,) = await rows(conn)
    assert (row["args"], row["rank"]) == ({"n": 1}, 0)


async def test_replace_gives_it_the_new_arguments_and_nothing_else(conn: asyncpg.Connection) -> None:
    first = await ask(conn, args={"n": 1}, delay=timedelta(hours=1))
    (before,) = await rows(conn)
    assert await ask(conn, args={"n": 2}, unique_mode="replace") == (first[0], True, True)
    (after,) = await rows(conn)
    assert (after["args"], after["run_at"]) == ({"n": 2}, before["run_at"])


async def test_reschedule_moves_it_and_wakes_nodes_if_it_is_due(dsn: str, conn: asyncpg.Connection) -> None:
    first = await ask(conn, args={"n": 1}, delay=timedelta(hours=1))
    assert await ask(conn, args={"n": 2}, unique_mode="reschedule", delay=timedelta(hours=3)) == (first[0], True, True)
    (row,) = await rows(conn)
    assert row["args"] == {"n": 1}
    assert timedelta(hours=2.9) < row["run_at"] - row["created_at"] < timedelta(hours=3.1)
    assert row["run_at"] == row["due_at"]
    assert await ask(conn, unique_mode="reschedule") == (first[0], True, True)
    assert [job.id for job in await take(conn)] == [first[0]]


async def test_nodes_are_woken_by_what_becomes_due_now_and_by_nothing_else(dsn: str, conn: asyncpg.Connection) -> None:
    await conn.execute("insert into ingestd.node_idle (node, queues) select gen_random_uuid(), array_agg(id) from ingestd.queue")
    heard: list[str] = []
    listener = await connect(dsn)
    try:
        await listener.add_listener("ingestd_job", lambda *message: heard.append(message[3]))

        async def told(**options: Any) -> int:
            heard.clear()
            await ask(conn, **options)
            await listener.fetchval("select 1")
            return len(heard)

        assert await told(delay=timedelta(hours=1)) == 0
        assert await told() == 0
        assert await told(unique_mode="replace", args={"n": 1}) == 0
        assert await told(unique_mode="reschedule", delay=timedelta(hours=2)) == 0
        assert await told(unique_mode="reschedule", queue="imports", priority=50) == 1
        assert heard[0].split()[:2] == [str(await conn.fetchval("select queue_id from ingestd.job")), "0"], "its own queue and rank"
        await take(conn)
        assert await told(unique_mode="reschedule") == 0
    finally:
        await listener.close()


@pytest.mark.parametrize("mode", ["replace", "reschedule"])
async def test_what_runs_is_never_changed(conn: asyncpg.Connection, mode: Any) -> None:
    first = await ask(conn, args={"n": 1})
    await take(conn)
    (before,) = await rows(conn)
    assert await ask(conn, args={"n": 2}, unique_mode=mode, delay=timedelta(hours=1)) == (first[0], True, False)
    (after,) = await rows(conn)
    assert dict(after) == dict(before)


async def test_a_change_waits_for_the_claim_that_is_under_way_and_then_changes_nothing(dsn: str, conn: asyncpg.Connection) -> None:
    first = await ask(conn, args={"n": 1})
    other = await connect(dsn)
    try:
        async with conn.transaction():
            await conn.execute("select from ingestd.job for update")
            asking = asyncio.create_task(ask(other, args={"n": 2}, unique_mode="replace"))
            watcher = await connect(dsn)
            await eventually(lambda: watcher.fetchval("select exists (select from pg_stat_activity where wait_event_type = 'Lock')"))
            await watcher.close()
            await take(conn)
        assert await asking == (first[0], True, False)
    finally:
        await other.close()
    assert (await rows(conn))[0]["args"] == {"n": 1}


# how long the key is held


async def test_a_key_until_start_is_free_once_the_job_runs(conn: asyncpg.Connection) -> None:
    first = await ask(conn, unique_until="start")
    assert (await ask(conn, unique_until="start"))[:2] == (first[0], True)
    await take(conn)
    second = await ask(conn, unique_until="start", unique_mode="replace")
    assert second[1] is False
    assert second[0] != first[0]


async def test_replace_makes_a_new_job_when_the_old_one_starts_in_between(dsn: str, conn: asyncpg.Connection) -> None:
    """Otherwise the newest arguments would never be run."""
    first = await ask(conn, args={"n": 1}, unique_until="start")
    other = await connect(dsn)
    try:
        async with conn.transaction():
            # seen, but not yet changed, by the caller when it starts
            await conn.execute("select from ingestd.job for update")
            asking = asyncio.create_task(ask(other, args={"n": 2}, unique_until="start", unique_mode="replace"))
            watcher = await connect(dsn)
            await eventually(lambda: watcher.fetchval("select exists (select from pg_stat_activity where wait_event_type = 'Lock')"))
            await watcher.close()
            await take(conn)
        told = await asking
    finally:
        await other.close()
    assert told[1] is False
    assert [row["args"] for row in await rows(conn)] == [{"n": 1}, {"n": 2}]
    assert told[0] != first[0]


async def test_a_key_is_free_when_its_job_is_final(conn: asyncpg.Connection) -> None:
    first = await ask(conn)
    await end(conn, first[0], State.FAILED)
    assert (await ask(conn))[1] is False


async def test_a_period_holds_the_key_over_the_end_of_the_job(conn: asyncpg.Connection) -> None:
    first = await ask(conn, unique_for=timedelta(hours=1))
    await end(conn, first[0])
    for mode in ("skip", "replace", "reschedule"):
        assert await ask(conn, unique_mode=mode) == (first[0], True, False), "callers without a period respect it too"
    assert await ask(conn, unique_for=timedelta(hours=2)) == (first[0], True, False)
    assert await rows(conn) == []
    await conn.execute("update ingestd.unique_hold set expires_at = now() - interval '1 second'")
    second = await ask(conn, unique_for=timedelta(hours=1))
    assert second[1] is False
    assert await conn.fetchval("select job_id from ingestd.unique_hold") == second[0]


async def test_within_its_period_a_waiting_job_can_still_be_changed(conn: asyncpg.Connection) -> None:
    first = await ask(conn, args={"n": 1}, unique_for=timedelta(hours=1))
    assert await ask(conn, args={"n": 2}, unique_for=timedelta(hours=1), unique_mode="replace") == (first[0], True, True)
    assert (await rows(conn))[0]["args"] == {"n": 2}


async def test_a_job_made_run_and_forgotten_while_a_caller_waited_still_counts(dsn: str, conn: asyncpg.Connection) -> None:
    """The caller waits in the index; when it may go on, the job is gone, but its period is not."""
    other = await connect(dsn)
    try:
        async with conn.transaction():
            first = await ask(conn, unique_for=timedelta(hours=1))
            asking = asyncio.create_task(ask(other, unique_for=timedelta(hours=1)))
            watcher = await connect(dsn)
            await eventually(lambda: watcher.fetchval("select exists (select from pg_stat_activity where wait_event_type = 'Lock')"))
            await watcher.close()
            await conn.execute("delete from ingestd.job")
        assert await asking == (first[0], True, False)
    finally:
        await other.close()
    assert await rows(conn) == []


async def test_periods_that_are_over_are_forgotten(conn: asyncpg.Connection) -> None:
    await ask(conn, unique_for=timedelta(hours=1))
    await conn.execute("insert into ingestd.unique_hold (key, job_id, expires_at) values ('old', 1, now() - interval '1 second')")
    await forget_holds(conn)
    assert [row["key"] for row in await conn.fetch("select key from ingestd.unique_hold")] == ["k"]


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_a_stricter_transaction_that_came_too_late_is_told_to_be_repeated(dsn: str, conn: asyncpg.Connection, isolation: Any) -> None:
    """It cannot see who holds the key; it must neither hang nor make a second job."""
    other = await connect(dsn)
    try:
        tx = other.transaction(isolation=isolation)
        await tx.start()
        await other.fetchval("select count(*) from ingestd.job")
        first = await ask(conn)
        with pytest.raises(asyncpg.SerializationError):
            await ask(other)
        await tx.rollback()
        assert await ask(other) == (first[0], True, False)
    finally:
        await other.close()


async def test_a_rollback_gives_the_key_back(dsn: str, conn: asyncpg.Connection) -> None:
    tx = conn.transaction()
    await tx.start()
    lost = await ask(conn, unique_for=timedelta(hours=1))
    await tx.rollback()
    kept = await ask(conn, unique_for=timedelta(hours=1))
    assert kept[1] is False
    assert kept[0] != lost[0]
