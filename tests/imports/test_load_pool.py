"""Loads in real child processes: kills, cancels, stale claims, lost connections, and nobody left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from ingestd.errors import DatabaseUnreachable, StaleClaim
from ingestd.events import Bus, Event
from ingestd.imports.loader import LoaderPool
from ingestd.imports.request import LoaderDied, LoadOutcome, LoadRequest, LoadTrouble
from ingestd.postgres.session import connect
from tests.imports.loading import LoadBench
from tests.support import eventually

ROWS = "id,v\n" + "".join(f"{n},value {n}\n" for n in range(20_000))
OURS = "from pg_stat_activity where datname = current_database() and application_name = 'test:loader' and wait_event_type = 'Lock'"
FAR = f"select count(*) {OURS}"


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[LoaderPool]:
    pool = LoaderPool(dsn, size=1, application_name="test", bus=Bus())
    await pool.start()
    yield pool
    await pool.close()


@pytest.fixture
def far(bench: LoadBench, pool: LoaderPool) -> LoadBench:
    """The bench, with loads in a child process."""

    async def in_child(request: LoadRequest) -> LoadOutcome:
        return await pool.load(request, lambda *what: bench.progress.append(what))

    bench._runner = in_child
    return bench


async def holding(dsn: str, table: str = "public.t") -> asyncpg.Connection:
    """A connection that keeps writers out of a table until it is closed."""
    conn = await connect(dsn)
    await conn.execute(f"begin; lock table {table} in share mode")
    return conn


async def until_it_waits(conn: asyncpg.Connection) -> None:
    await eventually(lambda: conn.fetchval(FAR), saying="a loader that waits for the table")


async def test_one_warm_child_serves_one_load_after_another(far: LoadBench, pool: LoaderPool) -> None:
    outcome = await far.load(ROWS, mode="upsert", key=("id",))
    first = pool.pids
    assert outcome.inserted == 20_000
    assert far.progress
    assert all(0 <= fraction <= 1 for fraction, _ in far.progress)
    assert (await far.load("id,v\n1,x\n", mode="upsert", key=("id",))).updated == 1
    assert pool.pids == first
    assert len(first) == 1


async def test_a_child_killed_in_the_middle_leaves_nothing_and_the_next_load_succeeds(dsn: str, far: LoadBench, pool: LoaderPool) -> None:
    await far.conn.execute("create table t (id int primary key, v text)")
    held = await holding(dsn)
    request = await far.request(ROWS, mode="upsert", key=("id",))
    running = asyncio.create_task(pool.load(request, lambda *_: None))
    await until_it_waits(far.conn)
    os.kill(pool.pids[0], signal.SIGKILL)
    with pytest.raises(LoaderDied, match="signal 9"):
        await running
    await held.close()
    await eventually(lambda: far.conn.fetchval(f"select ({FAR}) = 0"))
    assert await far.rows() == []
    assert await far.conn.fetchval("select status from ingestd.load where id = $1", request.load_id) == "pending"
    assert await far.conn.fetchval("select claim from ingestd.job where id = $1", request.job_id) == uuid.UUID(request.claim)
    again = await pool.load(replace(request, attempt=2), lambda *_: None)
    await far.check(request, again)
    assert again.inserted == 20_000


async def test_a_cancelled_load_ends_its_child_and_leaves_nothing(dsn: str, far: LoadBench, pool: LoaderPool) -> None:
    await far.conn.execute("create table t (id int primary key, v text)")
    held = await holding(dsn)
    request = await far.request(ROWS)
    running = asyncio.create_task(pool.load(request, lambda *_: None))
    await until_it_waits(far.conn)
    child = pool.pids[0]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not alive(child)
    await held.close()
    assert (await pool.load(request, lambda *_: None)).inserted == 20_000
    assert len(await far.rows()) == 20_000


async def test_a_stale_claim_rolls_the_whole_load_back(far: LoadBench, pool: LoaderPool) -> None:
    await far.conn.execute("create table t (id int primary key, v text)")
    for content in (ROWS, "id,v\nx,1\n"):
        request = await far.request(content)
        await far.conn.execute("update ingestd.job set claim = $2 where id = $1", request.job_id, uuid.uuid4())
        with pytest.raises(StaleClaim):
            await pool.load(request, lambda *_: None)
        assert await far.rows() == []
        assert await far.conn.fetchval("select status from ingestd.load where id = $1", request.load_id) == "pending"
    assert (await far.load("id,v\n1,a\n")).inserted == 1


async def cut_off(far: LoadBench, pool: LoaderPool, request: LoadRequest, how: str) -> LoadOutcome:
    """Run a load and end its statement or its connection while it waits for its table."""
    running = asyncio.create_task(pool.load(request, lambda *_: None))
    await until_it_waits(far.conn)
    await far.conn.execute(f"select {how}(pid) {OURS}")
    return await running


async def test_a_lost_connection_is_an_outage_and_never_the_fault_of_the_load(dsn: str, far: LoadBench, pool: LoaderPool) -> None:
    await far.conn.execute("create table t (id int primary key, v text)")
    held = await holding(dsn)
    request = await far.request(ROWS)
    for attempt in (1, 4):
        with pytest.raises(DatabaseUnreachable, match="lost its connection"):
            await cut_off(far, pool, replace(request, attempt=attempt), "pg_terminate_backend")
    assert await far.conn.fetchval("select status from ingestd.load where id = $1", request.load_id) == "pending"
    await held.close()
    assert (await pool.load(request, lambda *_: None)).inserted == 20_000


async def test_an_interrupted_load_is_tried_again_until_the_last_attempt(dsn: str, far: LoadBench, pool: LoaderPool) -> None:
    await far.conn.execute("create table t (id int primary key, v text)")
    held = await holding(dsn)
    request = await far.request(ROWS)
    with pytest.raises(LoadTrouble, match="was interrupted"):
        await cut_off(far, pool, request, "pg_cancel_backend")
    assert await far.conn.fetchval("select status from ingestd.load where id = $1", request.load_id) == "pending"
    outcome = await cut_off(far, pool, replace(request, attempt=4), "pg_cancel_backend")
    assert outcome.status == "failed"
    assert (outcome.reason or "").startswith("gave up after 4 attempts")
    await far.check(request, outcome)
    await held.close()
    assert await far.rows() == []


async def test_a_load_that_is_final_is_answered_from_its_row(far: LoadBench, pool: LoaderPool) -> None:
    request = await far.request("id,v\n1,a\n2,b\n")
    outcome = await pool.load(request, lambda *_: None)
    again = await pool.load(request, lambda *_: None)
    assert again.counts == outcome.counts
    assert await far.rows() == [(1, "a"), (2, "b")]


async def test_no_child_survives_the_kill_of_its_parent(dsn: str, bench: LoadBench, tmp_path: Path) -> None:
    await bench.conn.execute("create table t (id int primary key, v text)")
    held = await holding(dsn)
    request = await bench.request(ROWS)
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, json, sys\n"
        "from ingestd.events import Bus\n"
        "from ingestd.imports.loader import LoaderPool\n"
        "from ingestd.imports.request import LoadRequest\n"
        "async def main():\n"
        "    pool = LoaderPool(sys.argv[1], size=1, application_name='test', bus=Bus())\n"
        "    await pool.start()\n"
        "    request = LoadRequest.from_json(json.loads(sys.argv[2]))\n"
        "    await pool.load(request, lambda *_: None)\n"
        "asyncio.run(main())\n"
    )
    import json

    parent = await asyncio.create_subprocess_exec(sys.executable, str(script), dsn, json.dumps(request.to_json()))
    await until_it_waits(bench.conn)
    children = [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    assert children
    parent.kill()
    await parent.wait()
    await eventually(lambda: not any(alive(child) for child in children))
    await eventually(lambda: bench.conn.fetchval(f"select ({FAR}) = 0"), saying="the loader's backend to go")
    await held.close()
    assert await bench.rows() == []


async def test_the_kernel_ends_a_child_that_is_too_busy_to_notice(tmp_path: Path) -> None:
    busy = (
        "import sys; from ingestd.children import die_with_parent; die_with_parent(int(sys.argv[1])); "
        "print(1, flush=True); sum(range(10**11))"
    )
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {busy!r}, str(os.getpid())], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    assert alive(child)
    parent.kill()
    await parent.communicate()
    try:
        await eventually(lambda: not alive(child))
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


async def test_a_daemon_never_imports_arrow() -> None:
    code = "import sys, ingestd.imports.loader, ingestd.imports.handlers; sys.exit('pyarrow' in sys.modules or 'pgpq' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


async def test_the_death_of_a_child_is_told(dsn: str, bench: LoadBench) -> None:
    events: list[Event] = []
    bus = Bus()
    bus.subscribe(events.append)
    pool = LoaderPool("postgresql://nobody@127.0.0.1:1/none", size=1, application_name="test", bus=bus)
    await pool.start()
    request = await bench.request("id\n1\n")
    with pytest.raises(DatabaseUnreachable):
        await pool.load(request, lambda *_: None)
    os.kill(pool.pids[0], signal.SIGSTOP)
    running = asyncio.create_task(pool.load(request, lambda *_: None))
    await asyncio.sleep(0)
    os.kill(pool.pids[0], signal.SIGKILL)
    with pytest.raises(LoaderDied):
        await running
    assert events
    await pool.close()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
