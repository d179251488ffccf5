"""The fault injector breaks what it says it breaks, and the ledger sees what went wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import asyncpg
import pytest

from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.pool import Database
from ingestd.postgres.session import connect
from tests.faults import ledger, processes
from tests.faults.proxy import Proxy
from tests.support import eventually
from tests.work.conftest import handler, working

SLEEPER = "import signal; print('up', flush=True); signal.pause()"
PARENT = f"import subprocess, sys, signal; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]); signal.pause()"


@contextmanager
def started(code: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            processes.kill_tree(process.pid)


def test_a_killed_process_is_gone() -> None:
    with started(SLEEPER) as process:
        processes.kill(process.pid)
        assert process.wait(5) == -signal.SIGKILL


def test_killing_a_tree_or_a_group_kills_the_children_too() -> None:
    for blow in (processes.kill_tree, lambda pid: processes.kill_group(os.getpgid(pid)), processes.kill_machine):
        with started(PARENT) as process:
            (child,) = processes.descendants(process.pid)
            blow(process.pid)
            assert process.wait(5) == -signal.SIGKILL
            assert not processes.running(child)


def test_a_frozen_process_goes_on_where_it_was() -> None:
    with started(SLEEPER) as process:
        processes.freeze(process.pid)
        process.terminate()
        assert process.poll() is None
        processes.thaw(process.pid)
        assert process.wait(5) == -signal.SIGTERM


@pytest.fixture
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    async with Proxy(dsn) as between:
        yield between


async def test_the_proxy_leads_to_the_same_database(proxy: Proxy, conn: asyncpg.Connection) -> None:
    through = await connect(proxy.dsn)
    assert await through.fetchval("select current_database()") == await conn.fetchval("select current_database()")
    assert proxy.connections == 1
    await through.close()
    await eventually(lambda: proxy.connections == 0)


async def test_a_cut_breaks_open_connections_and_lets_new_ones_in(proxy: Proxy) -> None:
    through = await connect(proxy.dsn)
    assert proxy.cut() == 1
    with pytest.raises(OUTAGE):
        await through.fetchval("select 1")
    again = await connect(proxy.dsn)
    assert await again.fetchval("select 1") == 1
    await again.close()


async def test_a_refusing_proxy_lets_nobody_in_until_it_flows_again(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(OUTAGE):
        await asyncpg.connect(proxy.dsn, timeout=5)
    proxy.flow()
    await (await connect(proxy.dsn)).close()


async def test_a_stalled_line_is_open_and_silent_and_goes_on_where_it_was(proxy: Proxy) -> None:
    through = await connect(proxy.dsn)
    proxy.stall()
    answer = asyncio.create_task(through.fetchval("select 42"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(answer), 0.1)
    proxy.flow()
    assert await answer == 42
    await through.close()


async def test_a_lost_answer_leaves_the_commit_done(proxy: Proxy, conn: asyncpg.Connection) -> None:
    through = await connect(proxy.dsn)
    proxy.lose_answers()
    deed = asyncio.create_task(through.execute("create table deed ()"))
    await eventually(lambda: conn.fetchval("select to_regclass('deed') is not null"))
    proxy.cut()
    with pytest.raises(OUTAGE):
        await deed


async def test_ended_backends_are_gone_and_nobody_else(dsn: str, conn: asyncpg.Connection) -> None:
    victim = await connect(dsn, application_name="victim:services")
    assert await processes.end_backends(conn, "victim") == 1
    with pytest.raises(OUTAGE):
        await victim.fetchval("select 1")
    assert await conn.fetchval("select 1") == 1


async def test_the_ledger_holds_one_row_for_each_job_that_was_accepted(db: Database, conn: asyncpg.Connection) -> None:
    await ledger.open_ledger(conn)
    ids = await ledger.accept(conn, 50)
    assert (await ledger.judge(conn, ids)).open == ids
    async with working(db, handler(ledger.KIND, ledger.enter)):
        await eventually(lambda: ledger_is_even(conn, ids))


async def test_the_ledger_sees_what_was_lost_doubled_or_never_ordered(db: Database, conn: asyncpg.Connection) -> None:
    await ledger.open_ledger(conn)
    ids = await ledger.accept(conn, 4)
    async with working(db, handler(ledger.KIND, ledger.enter)):
        await eventually(lambda: ledger_is_even(conn, ids))
    await conn.execute("delete from ingestd.history where id = $1", ids[0])
    await conn.execute("insert into faults.ledger select job_id, 2, node from faults.ledger where job_id = $1", ids[1])
    await conn.execute("delete from faults.ledger where job_id = $1", ids[2])
    verdict = await ledger.judge(conn, [*ids[:3], 10**9])
    assert verdict == ledger.Verdict([ids[0], 10**9], [], [], [ids[2]], {ids[1]: 2}, [ids[3]], [])
    assert not verdict.exactly_once


async def ledger_is_even(conn: asyncpg.Connection, ids: list[int]) -> bool:
    await ledger.assert_exactly_once(conn, ids)
    return True
