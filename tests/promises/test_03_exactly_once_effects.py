"""Promise 3, with 1 and 2: rows and completion of a job appear together and once, whichever node is killed whenever."""

from __future__ import annotations

import asyncio
import random

import asyncpg

from tests.daemon.harness import Site
from tests.faults import ledger
from tests.support import eventually

HANDLERS = 'handlers = ["tests.daemon.jobs"]'
JOBS = 2 * 2000
KILLS = 4


async def test_each_of_thousands_of_jobs_takes_effect_once_while_nodes_are_killed_and_come_back(
    site: Site, conn: asyncpg.Connection
) -> None:
    site.configure(daemon=HANDLERS)
    await ledger.open_ledger(conn)
    dice = random.Random(20261122)
    nodes = await asyncio.gather(*(site.start("--duties", "work") for _ in range(2)))
    ids: list[int] = []
    for number in range(KILLS):
        ids += await ledger.accept(conn, JOBS // KILLS)
        victim = nodes[number % 2]
        node = await site.node_of(victim)
        done = dice.randrange(1, 150)
        await eventually(lambda node=node, done=done: conn.fetchval(BUSY, node, done), every_s=0.005)
        victim.kill()
        nodes[number % 2] = await site.start("--duties", "work")
    ids += await ledger.accept(conn, JOBS - len(ids))

    async def even() -> bool:
        await ledger.assert_exactly_once(conn, ids)
        return True

    await eventually(even, timeout_s=60, every_s=0.2)
    assert len(ids) == JOBS
    # Or the kills hit nothing and prove nothing.
    assert await conn.fetchval("select count(*) from ingestd.history where crashes > 0") > KILLS
    assert await conn.fetchval("select count(distinct node) from faults.ledger") >= KILLS


BUSY = """
select count(*) > $2 and exists (select from ingestd.job where node = $1 and claim is not null)
from faults.ledger where node = $1"""
