"""Where the embedded Postgres lives, and that nobody else on the machine gets at it."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import stat
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest

from ingestd.errors import Refused
from ingestd.postgres.account import Account, account_of
from ingestd.postgres.binaries import installed_package, server_programs
from ingestd.postgres.embedded import psql_path
from tests.postgres.embedded_lab import HOLDER, Lab, is_running, kill, output_of, pid_of, using
from tests.support import eventually

AS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root runs a server as another user")


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
