"""The embedded Postgres: real servers, real kills, as root and as an ordinary user."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from ingestd.errors import AlreadyRunning, ConfigurationError, DatabaseUnreachable, Refused
from ingestd.postgres import embedded
from ingestd.postgres.account import Account, account_of
from ingestd.postgres.binaries import installed_package, server_programs
from ingestd.postgres.cluster import cluster_name, prune_logs
from ingestd.postgres.embedded import EmbeddedPostgres, EmbeddedSettings, psql_path
from ingestd.postgres.flock import FileLock
from ingestd.postgres.place import Place, find_place
from ingestd.postgres.processes import orphans
from tests.support import eventually

AS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root runs a server as another user")

HOLDER = """
import asyncio, sys
from pathlib import Path
from ingestd.postgres.embedded import EmbeddedPostgres, EmbeddedSettings
async def main():
    server = EmbeddedPostgres(EmbeddedSettings(Path(sys.argv[1])), system_dir=Path(sys.argv[2]))
    await server.acquire()
    print(server.postmaster_pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


class Lab:
    """A folder that the server's user can pass through, and what is started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "state" / "postgres"
        self.system_dir = folder / "system"
        self.said: list[str] = []

    def server(self, data_dir: Path | None = None, **settings: Any) -> EmbeddedPostgres:
        """One more hold on the server."""
        chosen = EmbeddedSettings(data_dir or self.data_dir, **settings)
        return EmbeddedPostgres(chosen, report=self.said.append, system_dir=self.system_dir)

    def place(self, data_dir: Path | None = None) -> Place:
        """Where its files are."""
        return find_place(data_dir or self.data_dir, self.system_dir)

    def process(self, title: str) -> psutil.Process | None:
        """The server's process with this in its title."""
        for process in orphans(self.place(), cluster_name(self.place())):
            with contextlib.suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    return process
        return None

    def hold(self, *python: str, **options: Any) -> subprocess.Popen[str]:
        """A process of its own that uses the server until it is killed."""
        command = [*(python or (sys.executable,)), "-c", HOLDER, str(self.data_dir), str(self.system_dir)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)

    def kill_all(self) -> None:
        """Kill every process that was started here and is left."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.folder) in " ".join(process.cmdline()) and process.pid != os.getpid():
                    process.kill()

    def clean_up(self) -> None:
        """Leave nothing."""
        self.kill_all()
        shutil.rmtree(self.folder, ignore_errors=True)


def open_folder() -> Path:
    """Not tmp_path: only root may enter that, and most tests are about a server that lives where it was told to."""
    folder = Path(tempfile.mkdtemp(prefix="ingestd-lab-"))
    folder.chmod(0o711)
    return folder


@pytest.fixture
def empty_lab() -> Iterator[Lab]:
    """A lab with no database yet."""
    laboratory = Lab(open_folder())
    yield laboratory
    laboratory.clean_up()


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    """Initdb takes a second or two, and most tests are not about it."""
    laboratory = Lab(open_folder())
    yield laboratory
    laboratory.clean_up()


@pytest.fixture
async def lab(shared_lab: Lab) -> AsyncIterator[Lab]:
    """A lab with a database that was shut down in order, whatever the test before has done to it."""
    place = shared_lab.place()
    if not place.data.exists():
        async with using(shared_lab.server()):
            pass
    yield shared_lab
    if (place.data / "postmaster.pid").exists():
        shared_lab.kill_all()
        shutil.rmtree(shared_lab.data_dir)


@contextlib.asynccontextmanager
async def using(server: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    """Hold a server for a block, with one connection."""
    connection = await asyncpg.connect(await server.acquire())
    try:
        yield connection
    finally:
        await connection.close()
        await server.release()


def is_running(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def output_of(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """What a command prints."""
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=20).stdout


def a_process_of(account: Account) -> subprocess.Popen[bytes]:
    """Some process that the server's user runs."""
    return subprocess.Popen(["sleep", "600"], **account.spawn_options())


def pid_of(holder: subprocess.Popen[str]) -> int:
    """The postmaster that a holding process has come to."""
    assert holder.stdout is not None
    return int(holder.stdout.readline())


def kill(holder: subprocess.Popen[str]) -> None:
    """kill -9, and see to the end of it."""
    holder.kill()
    holder.wait()
    assert holder.stdout is not None
    holder.stdout.close()


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
    async with using(empty_lab.server()) as conn:
        assert await conn.fetchval("select 1") == 1
    assert not (await asyncio.to_thread(lambda: list(state.glob(".initdb-*"))))


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
    joining = asyncio.create_task(lab.server().acquire())
    await asyncio.wait({joining}, timeout=0.3)
    assert not joining.done()
    await conn.close()
    again = await asyncpg.connect(await joining)
    assert not is_running(pid)
    await again.close()
    assert await leaving.ensure_running()
    await leaving.release()
    # The joined hold lives until it is collected; the next one is the last.
    async with using(lab.server()):
        pass


@pytest.mark.parametrize("name", ["x" * 120, 'it\'s 100% "odd", too'])
async def test_a_long_or_odd_path_works_and_its_socket_stays_private(empty_lab: Lab, name: str) -> None:
    data_dir = empty_lab.folder / name / "postgres"
    server = empty_lab.server(data_dir)
    async with using(server) as conn:
        assert await conn.fetchval("select 1") == 1
        place = empty_lab.place(data_dir)
        assert len(os.fsencode(place.socket)) <= 107
        assert place.socket.exists()
        found = place.sockets.lstat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, place.account.uid)
        assert output_of(psql_path(), server.dsn, "-Atc", "select 2") == "2\n"
    shutil.rmtree(place.sockets)


async def test_a_socket_folder_that_somebody_else_has_prepared_is_not_trusted(empty_lab: Lab) -> None:
    data_dir = empty_lab.folder / ("x" * 120) / "postgres"
    place = empty_lab.place(data_dir)
    trap = empty_lab.folder / "trap"
    trap.mkdir()
    place.sockets.symlink_to(trap)
    try:
        with pytest.raises(Refused, match=r"does not trust it"):
            await empty_lab.server(data_dir).acquire()
        assert not list(trap.iterdir())
    finally:
        place.sockets.unlink()


async def test_no_other_user_can_read_or_reach_anything(lab: Lab) -> None:
    server = lab.server()
    async with using(server):
        place = lab.place()
        allowed = {place.account.gid} if AS_ROOT else set()
        for path in (place.folder, *place.folder.rglob("*")):
            found = path.lstat()
            assert not found.st_mode & 0o007, f"{path} is open to others"
            assert not found.st_mode & 0o070 or found.st_gid in allowed or not AS_ROOT, f"{path} is open to a group"
        if not AS_ROOT:
            assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
            return
        nobody = account_of(pwd.getpwnam("nobody").pw_uid)
        assert nobody.can("/bin/sh", "-c", 'cd "$1"', "sh", str(lab.folder))
        for path in (place.password, place.data, place.log, place.sockets, place.folder / "ingestd.conf"):
            assert not nobody.can("/bin/ls", str(path))
            assert not nobody.can("/bin/cat", str(path))
        # Not even with the password: the socket is out of reach.
        assert not nobody.can(str(psql_path()), server.dsn, "-c", "select 1")
        # The server itself cannot change what root reads or writes.
        for path in (place.folder / "new", place.folder / "ingestd.conf", place.folder / "hba.conf"):
            assert not place.account.can("/bin/sh", "-c", ': >> "$1"', "sh", str(path))


async def test_a_wrong_password_is_refused_and_nothing_of_ours_reaches_the_server(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTD_SMTP__PASSWORD", "a-secret-of-the-daemon")
    server = lab.server()
    async with using(server) as conn:
        place = lab.place()
        for user in ("ingestd", "postgres"):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(server.dsn, user=user, password="wrong")
        assert "scram" in await conn.fetchval("select string_agg(auth_method, ' ') from pg_hba_file_rules")
        # Asked of the server itself: root in a container may not look into another user's process.
        environment = await conn.fetchval("select pg_read_binary_file('/proc/self/environ')")
        assert b"a-secret" not in environment
        await conn.execute("create temp table opened (file text)")
        await conn.execute("copy opened from program 'readlink /proc/$PPID/fd/* || true'")
        opened = await conn.fetch("select file from opened where file like '%.lock'")
        assert {Path(row["file"]).name for row in opened} == {"server.lock"}
        password = place.password.read_text().strip()
        assert password in server.dsn
        assert password not in " ".join(psutil.Process(server.postmaster_pid).cmdline())


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


async def test_a_lost_password_is_said_and_not_replaced(lab: Lab) -> None:
    place = lab.place()
    password = place.password.read_text()
    place.password.unlink()
    with pytest.raises(Refused, match="password of the embedded Postgres is gone"):
        await lab.server().acquire()
    place.write("password", "another\n", secret=True)
    with pytest.raises(Refused, match="does not accept the password"):
        await lab.server().acquire()
    place.write("password", password, secret=True)
    async with using(lab.server()):
        pass


async def test_psql_finds_the_server_without_a_password_on_its_command_line(lab: Lab) -> None:
    server = lab.server()
    async with using(server):
        environment = os.environ | server.client_environment
        assert output_of(psql_path(), "-Atc", "select current_database()", env=environment) == "ingestd\n"


async def test_log_files_are_bounded_in_number(empty_lab: Lab) -> None:
    place = empty_lab.place()
    place.make_folder(place.log)
    for day in range(10, 30):
        (place.log / f"postgres-202601{day}-000000.log").touch()
    prune_logs(place)
    kept = sorted(file.name for file in place.log.iterdir())
    assert (len(kept), kept[-1]) == (8, "postgres-20260129-000000.log")


@needs_root
async def test_where_the_servers_user_cannot_go_the_data_lives_in_the_system_folder(empty_lab: Lab) -> None:
    closed = empty_lab.data_dir.parent
    closed.mkdir(mode=0o700)
    empty_lab.system_dir.mkdir(mode=0o700)
    async with using(empty_lab.server()) as conn:
        await conn.execute("create table kept as select 1 as n")
        place = empty_lab.place()
        assert place.folder.parent == empty_lab.system_dir
        assert not (empty_lab.data_dir / "data").exists()
    async with using(empty_lab.server()) as conn:
        assert await conn.fetchval("select n from kept") == 1
    # Nobody but the server's user passes through the system folder, and nobody but root reads it.
    assert stat.S_IMODE(empty_lab.system_dir.stat().st_mode) == 0o710

    # Whoever deletes the state folder wants to start afresh; what was there is kept all the same.
    # Its server, that a killed daemon left running, is stopped: nobody could find it any more.
    holder = empty_lab.hold()
    pid = await asyncio.to_thread(pid_of, holder)
    kill(holder)
    shutil.rmtree(empty_lab.data_dir)
    async with using(empty_lab.server()) as conn:
        assert await conn.fetchval("select to_regclass('kept')") is None
        assert not is_running(pid)
    assert place.data.exists()
    assert any(f"is kept in {place.folder}" in line for line in empty_lab.said)

    shutil.rmtree(empty_lab.place().folder)
    with pytest.raises(Refused, match="that folder is gone"):
        await empty_lab.server().acquire()


@needs_root
async def test_root_does_not_keep_its_data_where_another_user_could_move_it(empty_lab: Lab) -> None:
    user = account_of(pwd.getpwnam("nobody").pw_uid)
    empty_lab.data_dir.parent.mkdir()
    user.give(empty_lab.data_dir.parent)
    assert empty_lab.place().folder.parent == empty_lab.system_dir


@needs_root
def test_programs_that_the_servers_user_cannot_read_are_copied_once_and_whole(empty_lab: Lab) -> None:
    installed = installed_package()
    closed = empty_lab.folder / "venv"
    closed.mkdir(mode=0o700)
    package = closed / installed.name
    shutil.copytree(installed / "pginstall18", package / "pginstall18")
    shutil.copytree(installed.parent / f"{installed.name}.libs", closed / f"{installed.name}.libs")
    nobody = account_of(pwd.getpwnam("nobody").pw_uid)
    leftover = empty_lab.system_dir / "binaries" / ".making-killed"
    leftover.mkdir(parents=True)

    programs = server_programs(18, nobody, empty_lab.system_dir, package=package)
    assert programs.is_relative_to(empty_lab.system_dir)
    assert nobody.can(str(programs / "initdb"), "--version")
    assert not leftover.exists()
    assert not nobody.can("/bin/sh", "-c", ': >> "$1"', "sh", str(programs / "postgres"))
    before = (programs / "postgres").stat().st_ino
    assert server_programs(18, nobody, empty_lab.system_dir, package=package) == programs
    assert (programs / "postgres").stat().st_ino == before
    # Whoever can read the installed ones uses those.
    assert server_programs(18, account_of(0), empty_lab.system_dir, package=package) == package / "pginstall18" / "bin"


@needs_root
async def test_root_joins_an_ordinary_users_server_and_takes_nothing_from_them(empty_lab: Lab) -> None:
    user: Account = account_of(pwd.getpwnam("nobody").pw_uid)
    # Whatever interpreter they can run, with our modules.
    ours = ["/usr/bin/env", f"PYTHONPATH={os.pathsep.join(filter(None, sys.path))}"]
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    usable = [python for python in (sys.executable, system) if user.can(*ours, python, "-c", HOLDER.partition("async def")[0])]
    if not usable:
        pytest.skip("no other user can run this Python and this checkout")
    empty_lab.data_dir.parent.mkdir()
    user.give(empty_lab.data_dir.parent)
    holder = empty_lab.hold(*ours, usable[0], **user.spawn_options())
    pid = await asyncio.to_thread(pid_of, holder)
    server = empty_lab.server()
    async with using(server) as conn:
        await conn.execute("create table kept as select 1 as n")
        assert server.postmaster_pid == pid
        kill(holder)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: server.postmaster_pid is None)
        assert await server.ensure_running()
        assert psutil.Process(server.postmaster_pid).uids().real == user.uid
    owners = {path: path.lstat().st_uid for path in empty_lab.data_dir.rglob("*") if path.name != "start.log"}
    assert set(owners.values()) == {user.uid}
    holder = empty_lab.hold(*ours, usable[0], **user.spawn_options())
    assert await asyncio.to_thread(pid_of, holder)
    kill(holder)
    await server.acquire()
    await server.release()


async def test_recovery_may_take_longer_than_the_start_timeout(lab: Lab) -> None:
    server = lab.server(start_timeout=1.0)
    async with using(server) as conn:
        await conn.execute("select pg_logical_emit_message(false, 'x', repeat('x', 1000000)) from generate_series(1, 100)")
        pid = server.postmaster_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: server.postmaster_pid is None)
        back = asyncio.create_task(server.ensure_running())
        recovering = await eventually(lambda: lab.process(": startup"), every_s=0.002, saying="recovery begins")
        recovering.suspend()
        await asyncio.wait({back}, timeout=2.0)
        assert not back.done()
        recovering.resume()
        assert await back
