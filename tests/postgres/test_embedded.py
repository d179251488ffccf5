"""The embedded Postgres lives and dies: real servers, real kills, as root and as an ordinary user."""

from __future__ import annotations

import asyncio
import os
import signal

import asyncpg
import psutil
import pytest

from ingestd.errors import AlreadyRunning, ConfigurationError, DatabaseUnreachable, Refused
from ingestd.postgres import embedded
from ingestd.postgres.cluster import prune_logs
from ingestd.postgres.flock import FileLock
from tests.postgres.embedded_lab import Lab, a_process_of, is_running, kill, pid_of, using
from tests.support import eventually


async def test_the_first_start_makes_a_database_and_the_next_finds_it_again(empty_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPASSWORD", "PGUSER", "PGDATABASE", "PGOPTIONS"):
        monkeypatch.setenv(name, "from-the-environment")
    async with using(empty_lab.server()) as conn:
        await conn.execute("create table kept as select 1 as n")
        shown = {
            name: await conn.fetchval("select current_setting($1)", name)
            for name in ("listen_addresses", "jit", "fsync", "TimeZone", "data_checksums", "server_encoding")
        }
        assert shown == {
            "listen_addresses": "",
            "jit": "off",
            "fsync": "on",
            "TimeZone": "UTC",
            "data_checksums": "on",
            "server_encoding": "UTF8",
        }
        assert await conn.fetchval("select current_database() || ' ' || lower('É')") == "ingestd é"
        assert await conn.fetchval("select current_setting('server_version')") > "18"
    async with using(empty_lab.server()) as conn:
        assert await conn.fetchval("select n from kept") == 1
    assert empty_lab.said == ["creating the database (Postgres 18, once)"]


async def test_a_table_made_without_a_schema_lands_in_public(lab: Lab) -> None:
    async with using(lab.server()) as conn:
        await conn.execute("create schema if not exists ingestd")
        await conn.execute("create table plain (n int)")
        assert await conn.fetchval("select 'plain'::regclass::oid = 'public.plain'::regclass::oid")


async def test_the_last_holder_stops_the_server_and_no_other_does(lab: Lab) -> None:
    first, second = lab.server(), lab.server()
    assert await first.acquire() == await second.acquire()
    pid = first.postmaster_pid
    assert pid is not None
    assert pid == second.postmaster_pid
    await first.release()
    assert first.postmaster_pid is None
    assert is_running(pid)
    await second.release()
    assert not is_running(pid)
    assert not (lab.place().data / "postmaster.pid").exists()
    with pytest.raises(DatabaseUnreachable):
        await second.ensure_running()


async def test_many_at_once_start_one_server(empty_lab: Lab) -> None:
    servers = [empty_lab.server() for _ in range(4)]
    await asyncio.gather(*(server.acquire() for server in servers))
    assert len({server.postmaster_pid for server in servers}) == 1
    assert not any([await server.ensure_running() for server in servers])
    await asyncio.gather(*(server.release() for server in servers))


async def test_a_killed_postmaster_comes_back_with_every_committed_row_and_without_its_orphans(lab: Lab) -> None:
    first, second = lab.server(), lab.server()
    await asyncio.gather(first.acquire(), second.acquire())
    conn, busy = await asyncpg.connect(first.dsn), await asyncpg.connect(first.dsn)
    await conn.execute("create table kept_1 as select generate_series(1, 1000) as n")
    await conn.execute("begin; insert into kept_1 values (-1)")
    orphan = busy.get_server_pid()
    # A busy backend never notices that its postmaster is gone.
    endless = asyncio.create_task(busy.execute("select count(*) from generate_series(1, 1e12::bigint)"))
    await eventually(lambda: psutil.Process(orphan).cpu_times().user > 0.05)
    killed = first.postmaster_pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    await eventually(lambda: first.postmaster_pid is None)
    assert is_running(orphan)

    assert set(await asyncio.gather(first.ensure_running(), second.ensure_running())) == {True}
    assert first.postmaster_pid == second.postmaster_pid != killed
    assert not is_running(orphan)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await endless
    again = await asyncpg.connect(first.dsn)
    assert await again.fetchval("select array[count(*), min(n)] from kept_1") == [1000, 1]
    for connection in (conn, busy):
        connection.terminate()
    await again.close()
    await first.release()
    await second.release()


async def test_a_killed_daemon_leaves_a_server_that_the_next_one_joins(lab: Lab) -> None:
    holder = lab.hold(start_new_session=True)
    pid = await asyncio.to_thread(pid_of, holder)
    os.killpg(holder.pid, signal.SIGKILL)  # all that a terminal's Ctrl-C would reach
    kill(holder)
    server = lab.server()
    await server.acquire()
    assert server.postmaster_pid == pid
    await server.release()
    assert not is_running(pid)


async def test_all_processes_killed_at_once_lose_nothing_committed(lab: Lab) -> None:
    holder = lab.hold()
    pid = await asyncio.to_thread(pid_of, holder)
    async with using(lab.server()) as conn:
        await conn.execute("create table kept_2 as select 1 as n")
    family = psutil.Process(pid).children(recursive=True)
    for process in (psutil.Process(pid), *family):
        process.kill()
    kill(holder)
    async with using(lab.server()) as conn:
        assert await conn.fetchval("select n from kept_2") == 1


async def test_an_initdb_that_was_killed_midway_does_not_block_later_starts(empty_lab: Lab) -> None:
    holder = empty_lab.hold()
    state = empty_lab.data_dir
    await eventually(lambda: list(state.glob(".initdb-*/base")), saying="initdb begins")
    kill(holder)
    assert not (state / "data").exists()
    (initdb,) = empty_lab.processes("initdb")  # it outlives who started it
    initdb.suspend()
    async with using(empty_lab.server()) as conn:
        assert await conn.fetchval("select 1") == 1
    assert not list(state.glob(".initdb-*"))
    assert not is_running(initdb.pid)


async def test_a_process_id_taken_by_another_process_does_not_block_the_start(lab: Lab) -> None:
    place = lab.place()
    stranger = a_process_of(place.account)
    try:
        stale = place.data / "postmaster.pid"
        stale.write_text(f"{stranger.pid}\n{place.data}\n1700000000\n5432\n{place.sockets}\n\n        0         0\n")
        place.account.give(stale)
        async with using(lab.server()) as conn:
            assert await conn.fetchval("select 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_server_that_cannot_be_seen_is_never_joined_by_a_second_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_ORPHANS_PATIENCE", 0.2)
    place = lab.place()
    # Another container's server looks like this from here: a lock held, and no process to be found.
    elsewhere = FileLock(place.folder / "server.lock", place.owner)
    assert elsewhere.try_exclusive()
    with pytest.raises(AlreadyRunning, match="cannot be seen"):
        await lab.server().acquire()
    elsewhere.drop()
    async with using(lab.server()):
        pass


async def test_a_server_that_is_shutting_down_is_waited_for_and_then_started_anew(lab: Lab) -> None:
    leaving = lab.server()
    conn = await asyncpg.connect(await leaving.acquire())
    pid = leaving.postmaster_pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)  # smart: it waits for its clients, and lets no new one in
    log = lab.place().log
    await eventually(lambda: any("smart shutdown" in file.read_text() for file in log.iterdir()))
    late = lab.server()
    joining = asyncio.create_task(late.acquire())
    await asyncio.wait({joining}, timeout=0.3)
    assert not joining.done()
    await conn.close()
    again = await asyncpg.connect(await joining)
    assert not is_running(pid)
    await again.close()
    assert await leaving.ensure_running()
    await leaving.release()
    await late.release()
    assert not (lab.place().data / "postmaster.pid").exists()


async def test_data_of_another_major_version_is_refused_with_the_way_out(empty_lab: Lab) -> None:
    async with using(empty_lab.server(version=16)) as conn:
        assert (await conn.fetchval("select current_setting('server_version')")).startswith("16")
        with pytest.raises(ConfigurationError, match=r"made by Postgres 16 and Postgres 18 cannot read it: go back"):
            await empty_lab.server(version=18).acquire()
    with pytest.raises(ConfigurationError, match=r"made by Postgres 16 and Postgres 18 cannot read it: go back"):
        await empty_lab.server(version=18).acquire()
    with pytest.raises(ConfigurationError, match=r"embedded Postgres 17 does not exist: choose one of 16 and 18"):
        empty_lab.server(version=17)


async def test_a_server_that_cannot_start_says_why(lab: Lab) -> None:
    local = lab.place().folder / "local.conf"
    local.write_text("shared_buffers = 'much'\n")
    local.chmod(0o644)
    with pytest.raises(DatabaseUnreachable, match="shared_buffers"):
        await lab.server().acquire()
    local.write_text("work_mem = '5MB'\n")
    async with using(lab.server()) as conn:
        assert await conn.fetchval("select current_setting('work_mem')") == "5MB"
    local.unlink()


async def test_a_folder_that_cannot_be_made_is_named(empty_lab: Lab) -> None:
    in_the_way = empty_lab.folder / "file"
    in_the_way.touch()
    with pytest.raises(Refused, match=f"cannot use {in_the_way}"):
        await empty_lab.server(in_the_way / "postgres").acquire()


async def test_log_files_are_bounded_in_number(empty_lab: Lab) -> None:
    place = empty_lab.place()
    place.make_folder(place.log)
    for day in range(10, 30):
        (place.log / f"postgres-202601{day}-000000.log").touch()
    prune_logs(place)
    kept = sorted(file.name for file in place.log.iterdir())
    assert (len(kept), kept[-1]) == (8, "postgres-20260129-000000.log")


async def test_recovery_may_take_longer_than_the_start_timeout(lab: Lab) -> None:
    server = lab.server(start_timeout=1.0)
    async with using(server) as conn:
        await conn.execute("select pg_logical_emit_message(false, 'x', repeat('x', 1000000)) from generate_series(1, 100)")
        pid = server.postmaster_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: server.postmaster_pid is None)
        back = asyncio.create_task(server.ensure_running())
        (recovering,) = await eventually(lambda: lab.processes(": startup"), every_s=0.002, saying="recovery begins")
        recovering.suspend()
        await asyncio.wait({back}, timeout=2.0)
        assert not back.done()
        recovering.resume()
        assert await back
