"""Kill, freeze and thaw real processes.

SIGKILL leaves a process no last word, as power loss, the out-of-memory killer and `kill -9` do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable

import asyncpg
import psutil

GONE_S = 10.0


def running(process: psutil.Process | subprocess.Popen[str] | int) -> bool:
    """Whether it lives; a zombie does not."""
    pid = process if isinstance(process, int) else process.pid
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def kill(pid: int) -> None:
    """SIGKILL one process, and return when it is gone."""
    kill_all([pid])


def kill_tree(pid: int) -> None:
    """SIGKILL a process and everything it has started."""
    kill_all([pid, *descendants(pid)])


def kill_group(group: int) -> None:
    """SIGKILL every process of a group, as a service manager or a terminal that is closed the hard way does."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group:
                members.append(process.pid)
    os.killpg(group, signal.SIGKILL)
    _until_gone(members)


def kill_machine(*pids: int) -> None:
    """SIGKILL processes and all they have started as one blow, as power loss does: none sees another die first."""
    kill_all([*pids, *(child for pid in pids for child in descendants(pid))])


def kill_all(pids: Iterable[int]) -> None:
    """SIGKILL several processes as one blow, and return when they are gone."""
    victims = list(dict.fromkeys(pids))
    # Stopped before the first is killed, so that the others cannot act on its death.
    for way in (signal.SIGSTOP, signal.SIGKILL):
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, way)
    _until_gone(victims)


def freeze(pid: int) -> None:
    """Stop a process without its knowledge: its sockets and locks stay, it answers nothing."""
    os.kill(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """Let a frozen process go on; to itself no time has passed."""
    os.kill(pid, signal.SIGCONT)


def descendants(pid: int) -> list[int]:
    """Everything a process has started that still belongs to it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


async def postmaster_of(conn: asyncpg.Connection) -> int:
    """The server process behind a connection to a Postgres on this machine."""
    backend: int = await conn.fetchval("select pg_backend_pid()")
    parent = psutil.Process(backend).parent()
    assert parent is not None, f"backend {backend} has no parent"
    return parent.pid


async def kill_postmaster(conn: asyncpg.Connection) -> int:
    """SIGKILL the postmaster behind a connection; its backends are left to find out by themselves.

    Returns:
        Its process id.
    """
    pid = await postmaster_of(conn)
    kill(pid)
    return pid


async def end_backends(conn: asyncpg.Connection, application_name: str) -> int:
    """End every other session whose application name begins like this, as an administrator or a failover does.

    Returns:
        How many there were.
    """
    ended: int = await conn.fetchval(
        "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity"
        " where application_name like $1 || '%' and pid <> pg_backend_pid()",
        application_name,
    )
    return ended


def _until_gone(pids: Iterable[int]) -> None:
    # A zombie is gone to everybody but its parent, which may be a slow one.
    deadline = time.monotonic() + GONE_S
    for pid in pids:
        while running(pid):
            assert time.monotonic() < deadline, f"process {pid} survived SIGKILL"
            time.sleep(0.005)
