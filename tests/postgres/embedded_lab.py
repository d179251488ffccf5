"""What the tests of the embedded Postgres share: folders with servers in them, and processes to kill."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from ingestd.postgres.account import Account
from ingestd.postgres.cluster import cluster_name
from ingestd.postgres.embedded import EmbeddedPostgres, EmbeddedSettings
from ingestd.postgres.place import Place, find_place
from ingestd.postgres.processes import orphans

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

    def processes(self, title: str) -> list[psutil.Process]:
        """The server's processes with this in their title."""
        found = []
        for process in orphans(self.place(), cluster_name(self.place())):
            with contextlib.suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    found.append(process)
        return found

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
