"""Promise 6: files that are appended load once each, in order, though the node that loads them is killed again and again."""

from __future__ import annotations

import time

import asyncpg

from ingestd.postgres.session import connect
from tests.daemon import readings
from tests.daemon.harness import Site
from tests.faults import processes
from tests.support import CROWDED, eventually

# Appending: a file that loads twice leaves its rows twice.
IMPORT = readings.IMPORT.replace('"upsert"', '"append"').replace('key = ["meter_id", "reading"]\n', "")
FILES = ("a.csv", "b.csv")
ROWS = 300_000
TAKEN_UP_S = 5.0
LOADING = """
select j.id, n.pid from ingestd.job j join ingestd.node n on n.id = j.node where j.kind = 'load' and j.claim is not null
  and j.id <> all ($1::bigint[])"""
LOADER_WAITS = """
select count(*) > 0 from pg_stat_activity
where datname = current_database() and application_name like '%:loader' and wait_event_type = 'Lock'"""
TAKEN_UP = """
select 1 from ingestd.job j join ingestd.node n on n.id = j.node where j.id = $1 and j.claim is not null and n.pid <> $2"""


async def test_each_file_loads_once_and_in_order_though_its_node_is_killed(site: Site, dsn: str, conn: asyncpg.Connection) -> None:
    site.configure(IMPORT)
    nodes = {node.pid: node for node in [await site.start("--duties", "work"), await site.start("--duties", "work")]}
    for name in FILES:
        await readings.put_readings(site, name, ROWS, note=name)
    killed: set[int] = set()
    other = await connect(dsn)
    for _ in FILES:
        job = await eventually(lambda: conn.fetchrow(LOADING, list(killed)), every_s=0.01, saying="the next load runs")
        async with other.transaction():
            # No load can write its end while this is held: each is interrupted with all its work done, however fast it is.
            await other.execute("lock table ingestd.load in share mode")
            await eventually(lambda: conn.fetchval(LOADER_WAITS), every_s=0.01, saying="the load is at its end")
            processes.kill(nodes[job["pid"]].pid)
            began = time.monotonic()
            await eventually(lambda job=job: conn.fetchval(TAKEN_UP, job["id"], job["pid"]), every_s=0.01)
            assert time.monotonic() - began < TAKEN_UP_S * CROWDED
            nodes.pop(job["pid"]).process.wait()
            again = await site.start("--duties", "work")
            nodes[again.pid] = again
        killed.add(job["id"])
    await other.close()

    await readings.all_loaded(site, *FILES)
    per_load = await conn.fetch("select _ingestd_load load, count(*) n, count(distinct reading) readings from public.readings group by 1")
    assert [(row["n"], row["readings"]) for row in per_load] == [(ROWS, ROWS)] * len(FILES)
    for row in await conn.fetch("select * from ingestd.load"):
        assert (row["read"], row["inserted"], row["updated"], row["unchanged"], row["rejected"]) == (ROWS, ROWS, 0, 0, 0)
    assert await conn.fetchval("select array_agg(id order by finished_at) = array_agg(id order by id) from ingestd.load")
    assert await conn.fetchval("select count(*) from ingestd.arrival") == len(FILES)
    assert await conn.fetchval("select sum(crashes) from ingestd.history where kind = 'load'") >= len(FILES)
