"""The processes of one system: the driver that enqueues and the workers that run, each seen only from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.meter import read_counts, read_pings
from benchmarks.queues.systems import System
from benchmarks.setup import Installed

ANSWER_S = 900.0
STOP_S = 15.0
LAST_WORDS = 600


class Failed(Exception):
    """A system did not do what was asked of it; with its last words."""


class Driver:
    """A system's enqueueing process.

    Args:
        process: it.
        log: where its stderr goes.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    async def ask(self, verb: str, **options: Any) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            Failed: it answers with an error, not in time or not at all.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": verb, **options}).encode() + b"\n")
            await self._process.stdin.drain()
            async with asyncio.timeout(ANSWER_S):
                line = await self._process.stdout.readline()
            answer: dict[str, Any] = json.loads(line)
        except (OSError, ValueError, TimeoutError) as error:
            # A late answer would be taken for that to the next command.
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            raise Failed(f"{verb}: {error or type(error).__name__}: {last_words(self._log)}") from error
        if "error" in answer:
            raise Failed(f"{verb}: {answer['error']}")
        return answer


class Workers:
    """A system's working processes, all of one kind, and what their jobs write down.

    Args:
        processes: each the leader of a process group of its own.
        folder: of their meters.
        log: where they write.
    """

    def __init__(self, processes: list[subprocess.Popen[bytes]], folder: Path, log: Path) -> None:
        self._processes = processes
        self._folder = folder
        self._log = log

    def counts(self) -> tuple[int, int, int]:
        """First start, last start (ns) and number of counted jobs.

        Raises:
            Failed: a worker has ended.
        """
        for process in self._processes:
            if process.poll() is not None:
                raise Failed(f"a worker ended with {process.returncode}: {last_words(self._log)}")
        return read_counts(self._folder)

    def pings(self) -> list[int]:
        """How long pings took, in ns."""
        return read_pings(self._folder)

    def tree(self) -> list[psutil.Process]:
        """All their processes."""
        found = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                found += [parent, *parent.children(recursive=True)]
        return found

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what is left of each group."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)


@asynccontextmanager
async def driver(system: System, installed: Installed | None, url: str, folder: Path) -> AsyncIterator[Driver]:
    """Start a driver, and end it by ending its input."""
    log = folder / f"{slug(system)}-driver.log"
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *system.command(installed, "drive"),
            env=system.environment(installed, BENCH_URL=url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            limit=1 << 26,
        )
    try:
        yield Driver(process, log)
    finally:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@contextmanager
def workers(system: System, installed: Installed | None, url: str, folder: Path, *, expect: int = 0, count: int = 1) -> Iterator[Workers]:
    """Start workers, and end them.

    Args:
        expect: how many counted jobs there are.
        count: how many processes.
    """
    log = folder / f"{slug(system)}-worker.log"
    meters = Path(tempfile.mkdtemp(prefix="meter-", dir=folder))
    environ = system.environment(installed, BENCH_URL=url, BENCH_METER=str(meters), BENCH_EXPECT=str(expect))
    started: list[subprocess.Popen[bytes]] = []
    found = Workers(started, meters, log)
    try:
        with log.open("ab") as output:
            for _ in range(count):
                process = subprocess.Popen(
                    system.command(installed, "work"),
                    cwd=Path(__file__).parents[1] / "peers",
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                started.append(process)
        yield found
    finally:
        found.stop()
        shutil.rmtree(meters, ignore_errors=True)


def last_words(log: Path) -> str:
    """The end of a log, on one line."""
    if not log.exists():
        return ""
    return " | ".join(log.read_text(errors="replace").strip()[-LAST_WORDS:].splitlines())


def slug(system: System) -> str:
    """Its name where only letters and digits will do."""
    return "".join(letter if letter.isalnum() else "_" for letter in system.name)
