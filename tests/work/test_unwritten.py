"""Endings that Postgres does not take keep their claims, are written once it does, and hold up further claims when they are many."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import asyncpg
import pytest

from ingestd.events import StaleAck
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.store import ack as ack_store
from ingestd.postgres.pool import Database
from ingestd.work import acker
from ingestd.work.context import Context
from tests.support import eventually
from tests.work.conftest import handler, working

JOBS, FULL = 300, 40


async def test_what_has_run_and_cannot_be_written_is_not_run_again_and_nothing_more_is_claimed_when_it_is_much(
    db: Database, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: Counter[int] = Counter()
    away = True
    write = ack_store.ack_plain

    async def write_if_there(on: asyncpg.Connection, done: Any) -> Any:
        if away:
            raise asyncpg.ConnectionDoesNotExistError("Postgres is away")
        return await write(on, done)

    async def run(ctx: Context) -> None:
        runs[ctx.job.id] += 1

    monkeypatch.setattr(ack_store, "ack_plain", write_if_there)
    monkeypatch.setattr(acker, "FULL", FULL)
    ids = await enqueue(conn, [NewJob("some") for _ in range(JOBS)])
    async with working(db, handler("some", run), slots={"default": 4}) as bench:
        await eventually(lambda: bench.worker.acker.is_full())
        # What was claimed when it became full still runs; then all stands still, claimed and unwritten.
        await eventually(lambda: held_is(conn, len(runs)))
        assert await conn.fetchval("select count(*) from ingestd.history") == 0
        assert bench.worker.acker.unwritten == len(runs) < JOBS
        assert set(bench.worker.acker.claims()) == {
            row["claim"] for row in await conn.fetch("select claim from ingestd.job where claim is not null")
        }
        away = False
        bench.worker.acker.poller.try_again()
        await eventually(lambda: conn.fetchval("select count(*) = $1 from ingestd.history where state = 'succeeded'", JOBS))
        assert not [event for event in bench.events if isinstance(event, StaleAck)]
    assert runs == Counter(ids)


DEADLOCKS_ONCE = """
create sequence tries;
create function deadlock_once() returns trigger language plpgsql as $$ begin
    -- A sequence goes on counting where all else is rolled back.
    if nextval('tries') = 1 then raise 'deadlock detected' using errcode = 'deadlock_detected'; end if;
    return new;
end $$;
create trigger deadlock_once before insert on ingestd.history for each row execute function deadlock_once()"""


async def test_a_deadlock_while_the_last_endings_are_written_ends_no_drain(db: Database, conn: asyncpg.Connection) -> None:
    async def run(ctx: Context) -> str:
        ended.set()
        return "a result"

    ended = asyncio.Event()
    async with working(db, handler("some", run)) as bench:
        # Only the drain writes.
        bench.worker.acker.poller.stop()
        await conn.execute(DEADLOCKS_ONCE)
        (job_id,) = await enqueue(conn, [NewJob("some")])
        await asyncio.wait_for(ended.wait(), 10)
        assert await bench.worker.drain(0.0, asyncio.Event()) == 0
    assert await conn.fetchval("select state from ingestd.history where id = $1", job_id) == "succeeded"


async def held_is(conn: asyncpg.Connection, ran: int) -> bool:
    return bool(await conn.fetchval("select count(*) = $1 from ingestd.job where claim is not null", ran))
