"""Through pgbouncer in transaction mode, where no session belongs to anybody for longer than a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from ingestd import Client
from ingestd.postgres.session import connect, is_pooled
from tests.daemon import readings
from tests.daemon.harness import Site, open_site
from tests.faults import ledger, processes
from tests.faults.pooler import pooler
from tests.support import CROWDED, eventually

HANDLERS = 'handlers = ["tests.daemon.jobs"]'
SESSION_LOCKS = """
select count(*) from pg_locks l join pg_stat_activity a using (pid)
where l.locktype = 'advisory' and a.datname = current_database() and a.application_name like 'ingestd:%' and a.xact_start is null"""
LISTENS = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'ingestd:%:listen'"
SILENT, TAKEN_UP = timedelta(seconds=30), timedelta(seconds=15)
HELD = "select 1 from ingestd.job where id = $1 and node = $2"


@pytest.fixture
async def pooled(dsn: str) -> AsyncIterator[str]:
    async with pooler(dsn) as url:
        yield url


async def test_a_pooler_is_noticed_and_the_server_itself_is_not_taken_for_one(dsn: str, pooled: str) -> None:
    for url, expected in ((dsn, False), (pooled, True)):
        conn = await connect(url, pooled=True)
        assert await is_pooled(conn) is expected
        await conn.close()


async def test_a_client_notices_the_pooler_too(pooled: str, conn: asyncpg.Connection) -> None:
    async with Client(pooled) as client:
        handles = await asyncio.gather(
            *(client.enqueue(ledger.KIND, {"n": n}, unique_key=f"n {n % 40}", allow_unknown=True) for n in range(80)),
            *(client.enqueue(ledger.KIND, {"n": n}, allow_unknown=True) for n in range(80)),
        )
    assert len({handle.id for handle in handles}) == await conn.fetchval("select count(*) from ingestd.job") == 120


async def all_work(site: Site, conn: asyncpg.Connection) -> None:
    """Jobs with transactions of their own, and a load by a child process."""
    await ledger.open_ledger(conn)
    ids = await ledger.accept(conn, 200)
    await readings.put_readings(site, "some.csv", 2000)

    async def even() -> bool:
        await ledger.assert_exactly_once(conn, ids)
        return True

    await eventually(even, every_s=0.2)
    await readings.all_loaded(site, "some.csv")


async def test_with_a_direct_url_sessions_go_past_the_pooler(dsn: str, pooled: str, conn: asyncpg.Connection) -> None:
    with open_site(pooled) as site:
        site.configure(readings.IMPORT, daemon=HANDLERS, database=f'direct_url = "{dsn}"')
        daemon = await site.start()
        assert await conn.fetchval("select by_heartbeat from ingestd.node where pid = $1", daemon.pid) is False
        await eventually(lambda: conn.fetchval(LISTENS))
        assert await conn.fetchval(SESSION_LOCKS) == 1
        await all_work(site, conn)
        assert await daemon.stop() == 0


async def test_without_a_direct_url_all_works_and_thirty_seconds_of_silence_are_death(
    pooled: str, dsn: str, conn: asyncpg.Connection
) -> None:
    with open_site(pooled) as site, open_site(pooled) as elsewhere:
        site.configure(readings.IMPORT, daemon=HANDLERS)
        elsewhere.configure(daemon=HANDLERS)
        daemon = await site.start()
        assert await conn.fetchval("select by_heartbeat from ingestd.node where pid = $1", daemon.pid) is True
        await all_work(site, conn)
        assert await conn.fetchval(LISTENS) == 0
        assert await conn.fetchval(SESSION_LOCKS) == 0

        # One that will die with an open transaction, and one that will live; each on a machine of its own.
        go = site.folder / "go"
        held = await conn.fetchval("select ingestd.enqueue('holds_its_row', $1)", {"path": str(go)})
        dying = await site.node_of(daemon)
        await eventually((site.folder / f"go-{dying}").exists)
        other = await elsewhere.start()
        living = await elsewhere.node_of(other)
        processes.kill(daemon.pid)
        silent_since = await conn.fetchval("select heartbeat_at from ingestd.node where id = $1", dying)
        await eventually(lambda: conn.fetchval(HELD, held, living), every_s=0.2)
        silent = await conn.fetchval("select clock_timestamp() - $1::timestamptz", silent_since)
        assert SILENT < silent < SILENT + TAKEN_UP * CROWDED
        go.touch()
        await eventually(lambda: conn.fetchval("select state from ingestd.history where id = $1", held))
        await ledger.assert_exactly_once_of(conn, [held])
        (rescue,) = other.events("JobsRescued")
        assert "silent" in rescue["reason"]
        assert await other.stop() == 0
