"""Whoever keeps vacuum from removing dead rows is named, with what to do about it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.events import Bus, Event, HorizonHeld
from ingestd.health.horizon import Held, Horizon
from ingestd.health.store import jobs_of
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres.pool import Database
from ingestd.postgres.session import connect
from tests.support import eventually
from tests.work.conftest import handler, start_worker

__all__ = ["start_worker"]

SOON = timedelta(0)


@pytest.fixture
async def events() -> list[Event]:
    return []


@pytest.fixture
async def horizon(db: Database, events: list[Event]) -> Horizon:
    """A watch for which every moment is long."""
    bus = Bus()
    bus.subscribe(events.append)
    return Horizon(db, bus, SOON)


@pytest.fixture
async def holder(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of somebody else."""
    own = await connect(dsn, application_name="reporting")
    yield own
    if not own.is_closed():
        await own.close()


async def held(horizon: Horizon, conn: asyncpg.Connection) -> list[Held]:
    """Those who hold, but for what other tests do in their own databases."""
    return [one for one in await horizon.look(conn) if " in database " not in one.who]


async def only(horizon: Horizon, conn: asyncpg.Connection) -> Held:
    (one,) = await held(horizon, conn)
    return one


async def test_nobody_holds_anything(conn: asyncpg.Connection, horizon: Horizon) -> None:
    assert await held(horizon, conn) == []


async def test_an_open_transaction_is_named_with_pid_program_and_query(
    conn: asyncpg.Connection, horizon: Horizon, holder: asyncpg.Connection
) -> None:
    await holder.execute("begin isolation level repeatable read")
    await holder.fetchval("select count(*) from pg_class")
    found = await only(horizon, conn)
    pid = holder.get_server_pid()
    assert f"session {pid} (reporting, role " in found.who
    assert "idle in transaction: select count(*) from pg_class" in found.who
    assert f"select pg_terminate_backend({pid})" in found.hint
    (check,) = await horizon.checks(conn)
    assert (check.status, check.since is None) == ("degraded", False)
    assert f"session {pid}" in check.value
    await holder.execute("rollback")
    assert await held(horizon, conn) == []


async def test_all_who_hold_for_long_are_named_at_once(conn: asyncpg.Connection, horizon: Horizon, dsn: str) -> None:
    sessions = [await connect(dsn) for _ in range(3)]
    try:
        for session in sessions:
            await session.execute("begin isolation level repeatable read; select 1 from pg_class limit 1")
        (check,) = await horizon.checks(conn)
        assert all(f"session {session.get_server_pid()}" in check.value for session in sessions)
    finally:
        for session in sessions:
            await session.close()


async def test_a_transaction_that_has_written_holds_under_read_committed_too(
    conn: asyncpg.Connection, horizon: Horizon, holder: asyncpg.Connection
) -> None:
    await holder.execute("create table public.t (x int)")
    await holder.execute("begin; insert into public.t values (1)")
    assert f"session {holder.get_server_pid()}" in (await only(horizon, conn)).who


async def test_a_transaction_that_holds_nothing_is_not_accused(
    conn: asyncpg.Connection, horizon: Horizon, holder: asyncpg.Connection
) -> None:
    await holder.execute("begin; select 1")
    assert await held(horizon, conn) == []


async def test_a_short_one_is_not_told(db: Database, conn: asyncpg.Connection, holder: asyncpg.Connection) -> None:
    horizon = Horizon(db, Bus(), timedelta(minutes=5))
    await holder.execute("begin isolation level repeatable read; select 1 from pg_class limit 1")
    (check,) = await horizon.checks(conn)
    assert check.status == "healthy"
    by_name = {gauge.name: gauge.value for gauge in await horizon.gauges(conn)}
    assert 0 <= by_name["horizon_age_seconds"] < 300
    assert by_name["horizon_age_transactions"] >= 0


async def there(horizon: Horizon, conn: asyncpg.Connection, words: str) -> Held | None:
    """Whoever holds from another database and is called so."""
    return next((one for one in await horizon.look(conn) if words in one.who and " in database " in one.who), None)


async def test_a_snapshot_in_another_database_does_not_count_and_what_was_written_there_does(
    conn: asyncpg.Connection, horizon: Horizon, holder: asyncpg.Connection, server_dsn: str
) -> None:
    """A snapshot that is taken here is as old as the oldest transaction that has written anywhere on the server."""
    other = await connect(server_dsn)
    pid = other.get_server_pid()
    try:
        await other.execute("begin isolation level repeatable read; select 1 from pg_class limit 1")
        assert await there(horizon, conn, f"session {pid} ") is None
        written = await other.fetchval("select txid_current()")
        await holder.execute("begin isolation level repeatable read; select 1 from pg_class limit 1")
        theirs = "select backend_xmin::text::bigint from pg_stat_activity where pid = $1"
        assert await conn.fetchval(theirs, holder.get_server_pid()) <= written % 2**32
        found = await there(horizon, conn, f"session {pid} ")
        assert found is not None
        assert f" in database {await other.fetchval('select current_database()')}, idle in transaction" in found.who
        assert f"select pg_terminate_backend({pid})" in found.hint
    finally:
        await other.close()


async def test_a_forgotten_prepared_transaction_is_named(conn: asyncpg.Connection, horizon: Horizon, holder: asyncpg.Connection) -> None:
    gid = await prepare(holder)
    try:
        found = await only(horizon, conn)
        assert f"prepared transaction '{gid}'" in found.who
        assert f"rollback prepared '{quoted(gid)}'" in found.hint
    finally:
        await holder.execute(f"rollback prepared '{quoted(gid)}'")


async def test_one_that_was_prepared_in_another_database_is_named_with_it(
    conn: asyncpg.Connection, horizon: Horizon, server_dsn: str
) -> None:
    other = await connect(server_dsn)
    gid = await prepare(other)
    try:
        database = await other.fetchval("select current_database()")
        found = await there(horizon, conn, gid)
        assert found is not None
        assert f"in database {database} `commit prepared '{quoted(gid)}'`" in found.hint
    finally:
        await other.execute(f"rollback prepared '{quoted(gid)}'")
        await other.close()


async def prepare(session: asyncpg.Connection) -> str:
    """Leave a transaction behind that has written, of a name that must be quoted."""
    if not int(await session.fetchval("show max_prepared_transactions")):
        pytest.skip("this server allows no prepared transactions")
    gid = f"lost'{uuid.uuid4().hex}"
    await session.execute("begin; select txid_current()")
    await session.execute(f"prepare transaction '{quoted(gid)}'")
    return gid


def quoted(gid: str) -> str:
    return gid.replace("'", "''")


@pytest.mark.parametrize("is_here", [True, False])
async def test_a_slot_that_nobody_reads_is_named_whatever_its_database(
    conn: asyncpg.Connection, horizon: Horizon, server_dsn: str, is_here: bool
) -> None:
    """A slot keeps the dead rows of the catalogs of every database."""
    if await conn.fetchval("show wal_level") != "logical":
        pytest.skip("this server keeps no logical WAL")
    name = f"lost_{uuid.uuid4().hex[:8]}"
    other = await connect(server_dsn)
    try:
        await (conn if is_here else other).execute(f"select pg_create_logical_replication_slot('{name}', 'pgoutput')")
        (found,) = [one for one in await horizon.look(conn) if name in one.who]
        place = "" if is_here else f" in database {await other.fetchval('select current_database()')}"
        assert found.who == f"replication slot {name} (inactive, catalogs only){place}"
        assert f"select pg_drop_replication_slot('{name}')" in found.hint
    finally:
        await other.execute(f"select pg_drop_replication_slot('{name}')")
        await other.close()


@pytest.mark.parametrize("says_so", [True, False])
async def test_our_own_job_is_named_with_its_phase(dsn: str, conn: asyncpg.Connection, horizon: Horizon, says_so: bool) -> None:
    """A session of a node's handlers is told by the job it works for: the one that told its backend, or those that run there."""
    node = uuid.uuid4()
    own = await connect(dsn, application_name=f"ingestd:{node}:handlers")
    try:
        first, second = await enqueue(conn, [NewJob("load"), NewJob("refresh")])
        await conn.execute("update ingestd.job set claim = gen_random_uuid(), node = $1, claimed_at = now()", node)
        await conn.execute(
            """insert into ingestd.node (id, store, name, host, pid, version, duties, lock_key)
               values ($1, $1, 'n', 'h', 1, '1', '{}', 1)""",
            node,
        )
        progress = {str(second): {"fraction": None, "text": "merging"}, "backends": {str(second): own.get_server_pid()} if says_so else {}}
        await conn.execute(
            "insert into ingestd.node_progress (node, started, progress) values ($1, $2, $3)", node, [first, second], progress
        )
        await own.execute("begin isolation level repeatable read; select 1 from pg_class limit 1")
        found = await only(horizon, conn)
        assert f"job {second} refresh (merging)" in found.who
        assert (f"job {first} load" in found.who) is not says_so
        assert f"jobs show {second if says_so else first}" in found.hint
    finally:
        await own.close()


async def test_a_loop_of_ours_is_not_blamed_on_a_job(dsn: str, conn: asyncpg.Connection, horizon: Horizon) -> None:
    own = await connect(dsn, application_name=f"ingestd:{uuid.uuid4()}:services")
    try:
        await own.execute("begin isolation level repeatable read; select 1 from pg_class limit 1")
        assert (await only(horizon, conn)).who.startswith(f"ingestd itself: session {own.get_server_pid()} ")
    finally:
        await own.close()


async def test_each_holder_is_told_once(
    conn: asyncpg.Connection, horizon: Horizon, holder: asyncpg.Connection, events: list[Event]
) -> None:
    await holder.execute("begin isolation level repeatable read; select 1 from pg_class limit 1")
    await horizon.poll()
    await horizon.look(conn)
    await horizon.poll()

    def told() -> int:
        return len([event for event in events if isinstance(event, HorizonHeld) and f"session {holder.get_server_pid()} " in event.who])

    assert told() == 1
    await holder.execute("rollback")
    await horizon.poll()
    await holder.execute("begin isolation level repeatable read; select 1 from pg_class limit 1")
    await horizon.poll()
    assert told() == 2


async def test_a_session_that_we_may_not_look_into_is_timed_by_ourselves(
    conn: asyncpg.Connection, dsn: str, db: Database, holder: asyncpg.Connection
) -> None:
    role = f"plain_{uuid.uuid4().hex[:8]}"
    await conn.execute(f"create role {role}")
    try:
        await holder.execute("begin isolation level repeatable read; select 1 from pg_class limit 1")
        await conn.execute(f"set role {role}")
        found = await only(Horizon(db, Bus(), SOON), conn)
        assert f"session {holder.get_server_pid()} " in found.who
        assert "pg_read_all_stats" in found.hint
    finally:
        await conn.execute("reset role")
        await conn.execute(f"drop role {role}")


async def test_a_running_job_says_which_backend_it_holds(
    db: Database, conn: asyncpg.Connection, horizon: Horizon, start_worker: Callable[..., Any]
) -> None:
    """Two jobs hold transactions; each session is told by its own."""
    go = asyncio.Event()
    pids: dict[int, int] = {}

    async def hold(ctx: Any) -> None:
        async with ctx.transaction() as own:
            await own.execute("insert into public.t values (1)")
            pids[ctx.job.id] = own.get_server_pid()
            await go.wait()

    await conn.execute("create table public.t (x int)")
    async with start_worker(handler("hold", hold)) as bench:
        await enqueue(conn, [NewJob("hold"), NewJob("hold")])
        await eventually(lambda: len(pids) == 2)
        await conn.execute(
            """insert into ingestd.node (id, store, name, host, pid, version, duties, lock_key)
               values ($1, $1, 'n', 'h', 1, '1', '{}', 1) on conflict do nothing""",
            bench.node.id,
        )
        backends = "select progress -> 'backends' from ingestd.node_progress where node = $1"
        told = await eventually(lambda: conn.fetchval(f"select b from ({backends}) x(b) where b <> '{{}}'", bench.node.id))
        assert {int(number): pid for number, pid in told.items()} == pids
        for number, pid in pids.items():
            jobs = await jobs_of(conn, bench.node.application_name + ":handlers", pid, datetime.now(UTC))
            assert [job["id"] for job in jobs if job["certain"]] == [number]
        go.set()
        await eventually(lambda: conn.fetchval("select count(*) = 0 from ingestd.job"))
