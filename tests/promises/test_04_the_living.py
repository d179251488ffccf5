"""Promise 4: whatever Postgres does to the sessions by which nodes show that they live, nobody who lives is rescued."""

from __future__ import annotations

import os
import signal

import asyncpg
import pytest

from tests.daemon.harness import Daemon, Site, open_site
from tests.faults import ledger, processes
from tests.promises.test_04_fast_rescue import HANDLERS, SERVER_SETTLED
from tests.support import LONG, eventually

ALL_LOCKED = """
select count(distinct l.objid) = (select count(*) from ingestd.node where state = 'running') from pg_locks l join ingestd.node n
    on l.classid = (n.lock_key >> 32)::bit(32)::bigint::oid and l.objid = (n.lock_key & 4294967295)::bit(32)::bigint::oid
where l.locktype = 'advisory' and l.granted and n.state = 'running'"""
HELD = "select count(*) from ingestd.job where claim is not null"
# Long enough for three looks at a lock that is free, by a rescuer that has come back first.
LOOKED = "select bool_and(heartbeat_at > $1::timestamptz + interval '6 seconds') from ingestd.node where state = 'running'"


async def holding(sites: list[Site]) -> list[Daemon]:
    """A node on each site, on machines of their own as far as they can tell, and each at work on a job."""
    daemons = []
    async with sites[0].connection() as conn:
        await ledger.open_ledger(conn)
        for number, site in enumerate(sites):
            site.configure(daemon=HANDLERS + f'\nqueues = ["q{number}"]', text=f"[queues.q{number}]\nconcurrency = 4")
            daemons.append(await site.start())
            options = {"queue": f"q{number}"}
            await conn.fetchval("select ingestd.enqueue('until_file', $1, $2)", {"path": str(sites[0].folder / "go")}, options)
        await eventually(lambda: conn.fetchval(f"{HELD} having count(*) = $1", len(sites)))
        assert await conn.fetchval(ALL_LOCKED)
    return daemons


async def nobody_was_rescued(sites: list[Site], daemons: list[Daemon]) -> None:
    """All nodes have their locks again, have looked at each other often enough, and hold what they held."""
    jobs = "select array_agg(id order by id) from ingestd.job"
    await eventually(lambda: sites[0].ask(ALL_LOCKED), every_s=0.2)
    back = await eventually(lambda: sites[0].ask("select now()"))
    await eventually(lambda: sites[0].ask(LOOKED, back), every_s=0.2)
    assert await sites[0].ask(f"select ({HELD}) = $1", len(sites))
    ids = await sites[0].ask(jobs)
    (sites[0].folder / "go").touch()
    await eventually(lambda: sites[0].ask("select count(*) = $1 from ingestd.history", len(sites)))
    async with sites[0].connection() as conn:
        await ledger.assert_exactly_once_of(conn, ids)
        assert await conn.fetchval("select max(crashes) from ingestd.history") == 0
    for daemon in daemons:
        assert not daemon.events("JobsRescued")
        assert not daemon.events("StaleAck")


async def test_all_sessions_ended_at_once(site: Site, conn: asyncpg.Connection, dsn: str) -> None:
    with open_site(dsn) as elsewhere:
        daemons = await holding([site, elsewhere])
        await eventually(lambda: conn.fetchval(SERVER_SETTLED), every_s=0.5)
        assert await processes.end_backends(conn, "ingestd:") >= 4
        await nobody_was_rescued([site, elsewhere], daemons)


async def test_one_nodes_session_alone_ended_again_and_again(site: Site, conn: asyncpg.Connection, dsn: str) -> None:
    with open_site(dsn) as elsewhere:
        daemons = await holding([site, elsewhere])
        await eventually(lambda: conn.fetchval(SERVER_SETTLED), every_s=0.5)
        name = f"ingestd:{await site.node_of(daemons[0])}:heartbeat"
        for _ in range(3):
            await eventually(lambda: conn.fetchval(ALL_LOCKED))
            assert await processes.end_backends(conn, name) == 1
        await nobody_was_rescued([site, elsewhere], daemons)


# A restart is the easier one: the server says that it is new, and everybody is given time.
@pytest.mark.parametrize("end", ["restart", "crash"] if LONG else ["crash"])
async def test_postgres_was_gone(own_site: Site, end: str) -> None:
    keeper = await own_site.start("--duties", "schedule")
    with open_site(own_site.url) as one, open_site(own_site.url) as two:
        daemons = await holding([one, two])
        postmaster = own_site.postmaster
        assert postmaster is not None
        if end == "restart":
            # Its keeper starts it again.
            os.kill(postmaster, signal.SIGINT)
        else:
            # One server process killed takes all the others with it; the postmaster recovers, and counts as up all the time.
            processes.kill(await one.ask("select min(pid) from pg_stat_activity where application_name like 'ingestd:%:core'"))
        await eventually(lambda: all(daemon.events("DatabaseLost") for daemon in daemons))
        await nobody_was_rescued([one, two], daemons)
        assert keeper.alive
