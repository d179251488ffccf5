"""Promise 9: whatever happens to Postgres, the daemon lives, says so, and goes on by itself where it was."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from ingestd.jobs.model import Job
from ingestd.jobs.store import claim as claim_store
from ingestd.postgres.pool import Database
from tests.daemon import readings
from tests.daemon.harness import Daemon, Site
from tests.faults import ledger, processes
from tests.faults.proxy import Proxy
from tests.support import CROWDED, eventually
from tests.work.conftest import handler, working

HANDLERS = 'handlers = ["tests.daemon.jobs"]'
GREEN_S = 10.0 * CROWDED
ROWS = 20_000
TABLE = "create table public.readings (meter_id int, reading bigint, value numeric, note text, primary key (meter_id, reading))"
LOAD_WAITS = """
select 1 from pg_stat_activity
where datname = current_database() and application_name like 'ingestd:%:loader' and wait_event_type = 'Lock'"""
# An outage is nobody's failed attempt.
SPENT = """
select kind, attempt, crashes, attempts[0] #>> '{error,traceback}' as error from ingestd.history
where attempt > 1 or crashes > 0"""


async def accept(conn: asyncpg.Connection, count: int) -> list[int]:
    await ledger.open_ledger(conn)
    return await ledger.accept(conn, count)


async def all_ended_once(conn: asyncpg.Connection, ids: list[int], timeout_s: float = 30.0) -> None:
    async def even() -> bool:
        await ledger.assert_exactly_once(conn, ids)
        return True

    await eventually(even, timeout_s=timeout_s)


async def turns(daemon: Daemon, timeout_s: float = GREEN_S) -> None:
    """Until every loop turns again and every check is content."""

    async def healthy() -> bool:
        _, report = await daemon.get("/health")
        bad = {check["name"]: check["value"] for check in report["checks"] if check["status"] != "healthy" and check["name"] != "disk"}
        assert not bad, bad
        return True

    await eventually(healthy, timeout_s=timeout_s)


async def test_every_session_ended_again_and_again_loses_doubles_and_spends_nothing(site: Site, conn: asyncpg.Connection) -> None:
    site.configure(readings.IMPORT, daemon=HANDLERS)
    await conn.execute(TABLE)
    daemon = await site.start()
    await readings.put_readings(site, "some.csv", ROWS)
    ids: list[int] = []
    async with site.connection() as holder, holder.transaction():
        # Nobody may write to the table: the load is under way for as long as it takes to interrupt it.
        await holder.execute("lock table public.readings in share mode")
        for _ in range(2):
            ids += await accept(conn, 100)
            await eventually(lambda: conn.fetchval(LOAD_WAITS))
            assert await processes.end_backends(conn, "ingestd:") >= 4
    await all_ended_once(conn, ids)
    await readings.all_loaded(site, "some.csv")
    assert await conn.fetchval("select count(*) from public.readings") == ROWS
    assert [dict(row) for row in await conn.fetch(SPENT)] == []
    await turns(daemon)
    assert await daemon.stop() == 0


async def test_a_claim_whose_answer_is_lost_is_given_back(db: Database, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, lost = claim_store.claim, []

    async def claim_and_lose(on: asyncpg.Connection, *args: Any) -> list[Job]:
        jobs = await claim(on, *args)
        if jobs and not lost:
            lost.extend(jobs)
            raise asyncpg.ConnectionDoesNotExistError("the answer never came")
        return jobs

    monkeypatch.setattr(claim_store, "claim", claim_and_lose)
    async with working(db, handler(ledger.KIND, ledger.enter)):
        ids = await accept(conn, 50)
        await all_ended_once(conn, ids)
    assert lost
    assert [dict(row) for row in await conn.fetch(SPENT)] == []


async def test_jobs_that_a_living_node_holds_and_does_not_know_of_are_given_back(site: Site, conn: asyncpg.Connection) -> None:
    site.configure(daemon=HANDLERS)
    daemon = await site.start()
    await ledger.open_ledger(conn)
    # What a server does that finishes a claim after the node has released it.
    late: Any = await conn.fetchval(
        "insert into ingestd.job (kind, queue_id, claim, node, claimed_at, attempt)"
        " select $1, q.id, gen_random_uuid(), n.id, now(), 1 from ingestd.queue q, ingestd.node n where q.name = 'default' returning id",
        ledger.KIND,
    )
    await all_ended_once(conn, [late])
    assert [event for event in daemon.events("Notice") if "gave back 1 jobs" in event["event"]]


async def test_a_drain_without_postgres_ends_and_what_it_held_is_taken_up_later(
    remote: Site, proxy: Proxy, conn: asyncpg.Connection
) -> None:
    remote.configure(daemon=HANDLERS + '\ndrain_timeout = "0.2s"')
    daemon = await remote.start()
    go = remote.folder / "go"
    await ledger.open_ledger(conn)
    held = await conn.fetchval("select ingestd.enqueue('until_file', jsonb_build_object('path', $1::text))", str(go))
    await eventually(lambda: conn.fetchval("select claim is not null from ingestd.job where id = $1", held))
    proxy.refuse()
    daemon.signal(15)
    assert await daemon.ended(30.0) == 0
    proxy.flow()
    go.touch()
    await remote.start()
    await eventually(lambda: conn.fetchval("select state from ingestd.history where id = $1", held))
    assert [event for event in daemon.events("Notice") if "1 jobs could not be handed back" in event["event"]]
