"""The claim: order, cursors, sweeps, suspects; each statement against a real server."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import Job, NewJob
from ingestd.jobs.store import claim as store
from ingestd.jobs.store.claim import Claimant
from ingestd.postgres.session import connect
from ingestd.work.cursor import Cursor

DEFAULT = 1


def somebody(*kinds: str) -> Claimant:
    return Claimant(uuid.uuid4(), uuid.uuid4(), list(kinds or ("k",)), uuid.uuid4())


async def take(conn: asyncpg.Connection, cursor: Cursor, limit: int = 100, who: Claimant | None = None) -> list[Job]:
    jobs = await store.claim(conn, who or somebody(), DEFAULT, "default", limit, cursor.bounds())
    cursor.advance(jobs)
    return jobs


def known(*ranks: int) -> Cursor:
    cursor = Cursor()
    cursor.know(ranks)
    return cursor


def ids(jobs: Sequence[Job]) -> list[int]:
    return sorted(job.id for job in jobs)


async def test_more_urgent_jobs_come_first_then_older_ones(conn: asyncpg.Connection) -> None:
    low, first, second, high = await enqueue(conn, [NewJob("k", priority=-10), NewJob("k"), NewJob("k"), NewJob("k", priority=10)])
    cursor = known(-10, 0, 10)
    assert [ids(await take(conn, cursor, 1)) for _ in range(4)] == [[high], [first], [second], [low]]


async def test_two_claimers_never_get_the_same_job(dsn: str, conn: asyncpg.Connection) -> None:
    import asyncio

    await enqueue(conn, [NewJob("k") for _ in range(500)])
    others = [await connect(dsn) for _ in range(4)]

    async def drain(own: asyncpg.Connection) -> list[Job]:
        cursor, got = known(0), []
        while jobs := await take(own, cursor, 7):
            got += jobs
        return got

    taken = await asyncio.gather(*[drain(own) for own in others])
    everything = [job.id for got in taken for job in got]
    for own in others:
        await own.close()
    # A cursor may step over a row that another one had locked; the sweep is what finds it if that one lets go.
    assert len(everything) == len(set(everything)) == 500


async def test_a_job_that_commits_behind_the_cursor_is_found_by_the_sweep(dsn: str, conn: asyncpg.Connection) -> None:
    late = await connect(dsn)
    transaction = late.transaction()
    await transaction.start()
    (late_id,) = await enqueue(late, [NewJob("k")])
    await enqueue(conn, [NewJob("k") for _ in range(3)])
    await conn.execute("update ingestd.job set run_at = run_at + interval '1 hour' - interval '1 hour'")
    cursor = known(0)
    assert len(await take(conn, cursor)) == 3
    await transaction.commit()
    await late.execute("update ingestd.job set run_at = now() - interval '1 hour' where id = $1", late_id)
    assert await take(conn, cursor) == []
    swept = await store.sweep(conn, somebody(), {DEFAULT: 10}, {DEFAULT: "default"})
    assert ids(swept) == [late_id]
    await late.close()


async def test_a_lowered_cursor_finds_it_without_a_sweep(conn: asyncpg.Connection) -> None:
    (job_id,) = await enqueue(conn, [NewJob("k")])
    await conn.execute("update ingestd.job set run_at = now() - interval '1 hour'")
    cursor = Cursor()
    now = await conn.fetchval("select now()")
    cursor.lower(0, now)
    assert await take(conn, cursor) == []
    cursor.lower(0, await conn.fetchval("select min(run_at) from ingestd.job"))
    assert ids(await take(conn, cursor)) == [job_id]


async def test_a_suspect_is_left_to_be_taken_alone(conn: asyncpg.Connection) -> None:
    suspect, other, second = await enqueue(conn, [NewJob("k"), NewJob("k"), NewJob("k")])
    await conn.execute("update ingestd.job set crashes = 1 where id = any ($1::bigint[])", [suspect, second])
    assert ids(await take(conn, known(0))) == [other]
    assert await store.sweep(conn, somebody(), {DEFAULT: 10}, {DEFAULT: "default"}) == []
    assert ids(await store.claim_suspect(conn, somebody(), {DEFAULT: "default"})) == [suspect]


async def test_jobs_of_other_kinds_and_other_stores_are_left_alone(conn: asyncpg.Connection) -> None:
    who = somebody("k")
    mine, _, _ = await enqueue(conn, [NewJob("k", store=who.store), NewJob("k", store=uuid.uuid4()), NewJob("other")])
    assert ids(await take(conn, known(0), who=who)) == [mine]


async def test_the_waiting_ranks_are_told_queue_by_queue(conn: asyncpg.Connection) -> None:
    await enqueue(conn, [NewJob("k", priority=p) for p in (-10, 0, 0, 100)] + [NewJob("k", queue="alerts", priority=3)])
    found = await store.ranks(conn, [DEFAULT, 5])
    assert sorted(found) == [(1, -100), (1, 0), (1, 10), (5, -3)]


@pytest.mark.parametrize("statement", ["CLAIM", "SWEEP"])
async def test_the_claim_walks_its_index_and_nothing_else(conn: asyncpg.Connection, statement: str) -> None:
    await conn.execute(
        """insert into ingestd.job (kind, queue_id, run_at, due_at)
           select 'k', 1, now() - i * interval '1 ms', now() from generate_series(1, 20000) i"""
    )
    await conn.execute("analyze ingestd.job")
    who = somebody()
    arguments: list[Any] = [who.token, who.node, DEFAULT, 50, who.kinds, who.store, *known(0).bounds()]
    if statement == "SWEEP":
        arguments = [who.token, who.node, [DEFAULT], [50], who.kinds, who.store]
    plan = await conn.fetch(f"explain {getattr(store, statement)}", *arguments)
    text = "\n".join(row[0] for row in plan)
    assert "job_claimable" in text
    assert "Seq Scan on job" not in text
