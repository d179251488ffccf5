"""Promises 1, 4 and 6 on one machine: whatever is killed in the middle of a load and of jobs, everything accepted ends once."""

from __future__ import annotations

import pytest

from tests.daemon import readings
from tests.daemon.harness import Daemon, Site
from tests.faults import ledger, processes
from tests.support import CROWDED, PATIENCE_S, eventually

ROWS = 200_000
JOBS = 300
TAKEN_UP_S = 5.0
HANDLERS = 'handlers = ["tests.daemon.jobs"]'
TAKEN_UP = """
select extract(epoch from h.started_at - n.started_at)::float8 from ingestd.history h join ingestd.node n on n.id = h.node
where h.kind = 'load' and n.pid = $1"""


async def accept(site: Site, count: int) -> list[int]:
    async with site.connection() as conn:
        await ledger.open_ledger(conn)
        return await ledger.accept(conn, count)


async def accept_over_http(daemon: Daemon, count: int) -> list[int]:
    ids = []
    for _ in range(count):
        status, job = await daemon.post("/api/v1/jobs", {"kind": ledger.KIND})
        assert status == 201
        ids.append(int(job["id"]))
    return ids


async def all_ended_once(site: Site, ids: list[int]) -> None:
    async def even() -> bool:
        async with site.connection() as conn:
            await ledger.assert_exactly_once(conn, ids)
        return True

    await eventually(even, timeout_s=2 * PATIENCE_S, every_s=0.3)


async def table_is_exact(site: Site, rows: int) -> None:
    (found,) = await site.rows("select count(*) n, count(distinct reading) readings, sum(value) total from public.readings")
    assert (found["n"], found["readings"], found["total"]) == (rows, rows, rows * (rows - 1) / 2 + rows / 2)
    (load,) = await site.rows("select * from ingestd.load")
    assert (load["read"], load["inserted"], load["rejected"]) == (rows, rows, 0)
    assert await site.ask("select count(*) from pg_tables where schemaname = 'ingestd_stg'") == 0


@pytest.mark.parametrize("victim", ["daemon", "postmaster", "machine"])
async def test_a_kill_in_the_middle_of_a_load_and_of_jobs_loses_and_doubles_nothing(own_site: Site, victim: str) -> None:
    site = own_site
    site.configure(readings.IMPORT, daemon=HANDLERS)
    daemon = await site.start()
    await readings.put_readings(site, "big.csv", ROWS)
    postmaster = site.postmaster
    assert postmaster is not None
    ids = [*await accept(site, JOBS), *await accept_over_http(daemon, 3)]
    ids += await accept(site, JOBS)
    await readings.in_the_middle(site, ROWS // 20)

    if victim == "daemon":
        processes.kill(daemon.pid)
    elif victim == "postmaster":
        processes.kill(postmaster)
    else:
        processes.kill_machine(daemon.pid, postmaster)

    if victim != "postmaster":
        daemon.process.wait()
        daemon = await site.start()
    await all_ended_once(site, ids)
    await readings.all_loaded(site, "big.csv")
    await table_is_exact(site, ROWS)
    if victim == "postmaster":
        assert site.postmaster not in (None, postmaster)
        assert [event["recovered"] for event in daemon.events("PostgresStarted")] == [True]
        assert await site.ask("select attempt from ingestd.history where kind = 'load'") == 1
    else:
        taken_up = await site.ask(TAKEN_UP, daemon.pid)
        assert taken_up is not None
        assert taken_up < TAKEN_UP_S * CROWDED
    assert await daemon.stop() == 0
