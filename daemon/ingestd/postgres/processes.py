"""The running processes of an embedded Postgres: finding its postmaster and its orphans, and ending them.

They are known by their user and their command line or title, which every process may read. Their working directory
and program file would tell as well, but root in a container may not look at those of another user.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from ingestd.postgres.place import Place


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs. One that has ended and is our child is reaped; a zombie counts as ended."""
    reap(process.pid)
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def reap(pid: int) -> None:
    """Take a child's exit status, if it is our child and has ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def named_pid(place: Place) -> int | None:
    """The process id in postmaster.pid, whatever it may belong to by now."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int((place.data / "postmaster.pid").read_text().splitlines()[0])
        return pid if pid > 1 else None
    return None


def find_postmaster(place: Place) -> psutil.Process | None:
    """The live postmaster of a place, if postmaster.pid names one that really is."""
    pid = named_pid(place)
    if pid is None:
        return None
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        # Whose it is comes first: looking whether it lives takes the exit status of a child of ours.
        if process.uids().real == place.account.uid and _serves(process.cmdline(), place) and is_alive(process):
            return process
    return None


def colliding_pid(place: Place) -> int | None:
    """The process id in a stale postmaster.pid, if a process that is certainly no Postgres has it now."""
    pid = named_pid(place)
    if pid is not None:
        # A zombie has no command line any more; it is no server, whatever it was.
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
                return pid
        if Path(f"/proc/self/task/{pid}").exists():
            return pid
    return None


def orphans(place: Place, cluster: str) -> list[psutil.Process]:
    """Processes of a place's server whose postmaster is gone, and an initdb whose caller is.

    The log writer is the last to go, and comes last.

    Args:
        place: the place; it must have no live postmaster.
        cluster: the name in their titles.
    """
    found = [process for process in _of_user(place.account.uid) if _belongs(process, place, cluster)]
    return sorted(found, key=is_log_writer)


def is_log_writer(process: psutil.Process) -> bool:
    """Whether this is the process that writes the log; it ends by itself when all others have."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()).rstrip().endswith(": logger")
    return False


def _of_user(uid: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.uids().real == uid:
                yield process


def _belongs(process: psutil.Process, place: Place, cluster: str) -> bool:
    with contextlib.suppress(psutil.Error):
        command = process.cmdline()
        titled = " ".join(command).startswith(f"postgres: {cluster}: ")
        return (titled or _serves(command, place) or _makes(command, place)) and is_alive(process)
    return False


def _makes(command: list[str], place: Place) -> bool:
    """An initdb's command line. The servers it runs meanwhile end with it."""
    in_the_making = any(argument.startswith(f"{place.folder}/.initdb-") for argument in command)
    return in_the_making and Path(command[0]).name == "initdb"


def _serves(command: list[str], place: Place) -> bool:
    """A postmaster's command line, which its children show as well until they have set their title."""
    return len(command) > 2 and Path(command[0]).name == "postgres" and command[1:3] == ["-D", str(place.data)]
