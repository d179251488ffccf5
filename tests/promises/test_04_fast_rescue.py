"""Promise 4: what a dead process held is taken up within seconds; what a busy one holds is left to it."""

from __future__ import annotations

import time
from typing import Any

import asyncpg

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from tests.daemon.harness import Site, open_site
from tests.faults import ledger
from tests.support import CROWDED, eventually

HANDLERS = 'handlers = ["tests.daemon.jobs"]'
SAME_MACHINE_S = 5.0
ELSEWHERE_S = 20.0
# After a restart of the server living nodes have that long to take their locks again.
SERVER_SETTLED = "select now() - pg_postmaster_start_time() > interval '31 seconds'"


async def held_by(conn: asyncpg.Connection, job_id: int, node: Any) -> None:
    await eventually(lambda: conn.fetchval("select 1 from ingestd.job where id = $1 and node = $2", job_id, node))


async def test_the_dead_are_rescued_fast_and_the_living_never(site: Site, conn: asyncpg.Connection, dsn: str) -> None:
    with open_site(dsn) as elsewhere:
        site.configure(daemon=HANDLERS)
        elsewhere.configure(daemon=HANDLERS)
        await ledger.open_ledger(conn)
        first = await site.start()
        busy, long = await enqueue(conn, [NewJob("blocks", {"seconds": 5}), NewJob("until_file", {"path": str(site.folder / "go")})])
        await held_by(conn, long, await site.node_of(first))
        second = await site.start("--duties", "work")
        # It rescues, and takes no part in this queue: whatever the second one gets, the second one was given.
        third = await elsewhere.start("--duties", "work", "--queues", "imports")

        # The first node's event loop does not turn for longer than a rescue takes: it is busy, not dead.
        await eventually(lambda: conn.fetchval("select state from ingestd.history where id = $1", busy))
        assert await conn.fetchval("select count(*) from faults.ledger where job_id = $1", busy) == 1
        assert not second.events("JobsRescued")
        assert not third.events("JobsRescued")
        await held_by(conn, long, await site.node_of(first))

        first.kill()
        began = time.monotonic()
        await held_by(conn, long, await site.node_of(second))
        assert time.monotonic() - began < SAME_MACHINE_S * CROWDED
        # It is said after the rescue has committed, and so may be seen after it, too.
        rescued = await eventually(lambda: second.events("JobsRescued"))
        assert [event["reason"] for event in rescued] == ["its process has ended"]

        # From its own folder the third cannot tell whether the process lives: the session lock in Postgres says so.
        await eventually(lambda: conn.fetchval(SERVER_SETTLED), every_s=0.5)
        second.kill()
        began = time.monotonic()
        await eventually(lambda: conn.fetchval("select 1 from ingestd.job where id = $1 and claim is null", long))
        assert time.monotonic() - began < ELSEWHERE_S * CROWDED
        await eventually(lambda: third.events("JobsRescued"))

        await elsewhere.start("--duties", "work")
        (site.folder / "go").touch()
        await eventually(lambda: conn.fetchval("select state from ingestd.history where id = $1", long))
        await ledger_has_each_once(conn, [busy, long])
        row = await conn.fetchrow("select state, attempt, crashes from ingestd.history where id = $1", long)
        assert (row["state"], row["attempt"], row["crashes"]) == ("succeeded", 1, 2)


async def ledger_has_each_once(conn: asyncpg.Connection, ids: list[int]) -> None:
    assert sorted(row["job_id"] for row in await conn.fetch("select job_id from faults.ledger")) == sorted(ids)
