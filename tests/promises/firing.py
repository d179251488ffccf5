"""What the tests of promise 5 share: schedules of every second, whose jobs leave a row each, and the end of it all."""

from __future__ import annotations

import sys
from datetime import timedelta

import asyncpg

from tests.daemon.harness import Site
from tests.faults import ledger, slots
from tests.faults.slots import SECOND
from tests.support import PATIENCE_S, eventually

HANDLERS = 'handlers = ["tests.daemon.jobs"]'
DUTIES = ("--duties", "work,schedule")
# How far behind a schedule of every second may be once nobody disturbs it any more.
LAG = timedelta(seconds=5)
STATES = "select state, count(*) as n, max(fired_at - due_at) as latest from ingestd.slot group by state order by state"
JOB_IDS = "select job_id from ingestd.slot where job_id is not null order by job_id"
# What the clock of the database, which knows when jobs were enqueued and ended, cannot have seen.
IMPOSSIBLE = """
select id, created_at, started_at, finished_at, duration_ms from ingestd.history
where started_at > finished_at or started_at < created_at or duration_ms not between 0 and 60000 limit 5"""
NEWEST = "select max(due_at) from ingestd.slot"


def schedule(name: str, rule: str = 'every = "1s"', *more: str) -> str:
    """A schedule that starts a job of the ledger at each slot, whatever became of those before."""
    return "\n".join([f"[schedules.{name}]", rule, f'job = "{ledger.KIND}"', 'overlap = "allow"', *more, ""])


def every_second(count: int) -> str:
    """So many schedules that are due each second."""
    return "".join(schedule(f"s{number:03d}") for number in range(count))


def steps(count: int) -> dict[str, timedelta]:
    """How often those are due."""
    return {f"s{number:03d}": SECOND for number in range(count)}


async def tell(conn: asyncpg.Connection, what: str) -> None:
    """Print what became of slots."""
    found = [f"{row['n']} {row['state']}" + (f" (latest by {row['latest']})" if row["latest"] else "") for row in await conn.fetch(STATES)]
    sys.stdout.write(f"{what}: {', '.join(found)}\n")


async def fires(site: Site, times: int = 1) -> None:
    """Until newer slots have been recorded, so many times."""
    for _ in range(times):
        before = await site.ask(NEWEST)

        async def newer(before: object = before) -> bool:
            newest = await site.ask(NEWEST)
            return newest is not None and (before is None or newest > before)

        await eventually(newer, saying="a newer slot")


async def keeps_up(conn: asyncpg.Connection) -> None:
    """Until every schedule in service is on time."""
    await eventually(lambda: slots.up_to_date(conn, LAG), timeout_s=2 * PATIENCE_S, every_s=0.2)


async def jobs_end_once(conn: asyncpg.Connection) -> None:
    """With nobody left who fires slots: every job that a slot has started leaves its one row."""
    ids = [row["job_id"] for row in await conn.fetch(JOB_IDS)]

    async def even() -> bool:
        await ledger.assert_exactly_once(conn, ids)
        return True

    await eventually(even, timeout_s=300, every_s=0.5)


async def work_off(site: Site, conn: asyncpg.Connection) -> None:
    """The same with all nodes gone: one more does what they have left."""
    worker = await site.start("--duties", "work")
    await jobs_end_once(conn)
    assert await worker.stop() == 0
