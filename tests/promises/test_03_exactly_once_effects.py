"""Promise 3, with 1, 2 and 4: rows and completion of a job appear together and once, whichever node is killed whenever.

`INGESTD_LONG_TESTS=1` kills for the full minute, among 20,000 jobs.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from tests.daemon.harness import Daemon, Site
from tests.faults import ledger
from tests.support import CROWDED, LONG, eventually

JOBS, KILLING_S = (20_000, 60.0) if LONG else (2_000, 5.0)
NODES = 3
RESCUED_S = 5.0
BATCH = 500
HITS = 3
HANDLERS = 'handlers = ["tests.daemon.jobs"]'
HOLDS = "select exists (select from ingestd.job where node = $1 and claim is not null)"
OPEN = "select count(*) from ingestd.job"


@dataclass
class Killing:
    """What the kills have hit.

    Args:
        at_work: how many of the killed held jobs the moment before.
        slowest_s: the longest that a dead node's jobs waited for their rescue, in seconds.
    """

    kills: int = 0
    at_work: int = 0
    slowest_s: float = 0.0
    waits: list[asyncio.Task[None]] = field(default_factory=list)


async def test_each_of_thousands_of_jobs_takes_effect_once_while_nodes_are_killed_and_come_back(
    site: Site, conn: asyncpg.Connection
) -> None:
    site.configure(daemon=HANDLERS)
    await ledger.open_ledger(conn)
    nodes = list(await asyncio.gather(*(site.start("--duties", "work") for _ in range(NODES))))
    ids = await ledger.accept(conn, BATCH)
    killing, dice = Killing(), random.Random(20261122)
    end = time.monotonic() + KILLING_S
    # On a slow machine nodes take long to come back: longer, until enough of them were hit at work.
    while time.monotonic() < end or (killing.at_work < HITS and time.monotonic() < end + 120):
        # Fed as they get on, so that there is work for as long as there is killing.
        if await conn.fetchval(OPEN) < BATCH and (len(ids) < JOBS or time.monotonic() > end):
            ids += await ledger.accept(conn, BATCH)
        await asyncio.sleep(dice.uniform(0, 0.3))
        await kill_one(site, nodes, dice.randrange(NODES), killing)
    ids += await ledger.accept(conn, max(JOBS - len(ids), 0))
    await asyncio.gather(*killing.waits)

    async def even() -> bool:
        await ledger.assert_exactly_once(conn, ids)
        return True

    await eventually(even, timeout_s=600 if LONG else 240, every_s=0.5)
    crashed = await conn.fetchval("select count(*) from ingestd.history where crashes > 0")
    workers = await conn.fetchval("select count(distinct node) from faults.ledger")
    sys.stdout.write(
        f"{len(ids)} jobs, {killing.kills} kills ({killing.at_work} of nodes at work), slowest rescue {killing.slowest_s:.2f} s,"
        f" {crashed} jobs crashed, {workers} nodes worked\n"
    )
    assert len(ids) >= JOBS
    assert killing.slowest_s < RESCUED_S * CROWDED
    # Or the kills hit nothing and prove nothing.
    assert killing.at_work >= HITS
    assert crashed >= HITS
    assert workers > NODES
    stale = sum(len(daemon.events("StaleAck")) for daemon in site.daemons)
    assert stale == 0, "whoever was killed says nothing, and whoever was not keeps its jobs"


async def kill_one(site: Site, nodes: list[Daemon], number: int, killing: Killing) -> None:
    """Kill a node and start another in its place; see meanwhile how long its jobs wait."""
    victim = nodes[number]
    node = await site.node_of(victim)
    # Asked before: on one machine its jobs are rescued before a question after it is answered.
    killing.at_work += await site.ask(HOLDS, node)
    victim.kill()
    killing.kills += 1
    killing.waits.append(asyncio.create_task(until_rescued(site, node, killing), name=f"rescue of {node}"))
    nodes[number] = await site.start("--duties", "work")


async def until_rescued(site: Site, node: UUID, killing: Killing) -> None:
    began = time.monotonic()
    await eventually(lambda: site.ask(f"select not ({HOLDS})", node))
    killing.slowest_s = max(killing.slowest_s, time.monotonic() - began)
