"""The loader process: takes one load after another over stdin, answers over stdout, one JSON object a line.

To it: {"hello": {"dsn", "application_name", "pooled"}}, then {"load": {…LoadRequest}} whenever the last one was answered.
From it: {"ready": pid}, {"progress": [fraction, text]}, {"alive": true}, and for each load one of {"outcome": {…LoadOutcome}}
and {"trouble": [kind, message]}; both with "memory", its resident bytes.
It never outlives its parent: the kernel kills it when the parent dies, and the end of stdin ends it as well.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pyarrow as pa

from ingestd.errors import DatabaseUnreachable, IngestdError, StaleClaim
from ingestd.imports import load
from ingestd.imports.request import LoadRequest
from ingestd.postgres.pool import connect

PROGRESS_EVERY_S = 0.2
ALIVE_EVERY_S = 5.0
LONGEST_LINE = 4 << 20
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Entry point: `python -m ingestd.imports.child PARENT_PID`."""
    die_with_parent(int(sys.argv[1]))
    # Ctrl-C and a service manager's signals reach the whole group; only the parent decides when a load ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever prints goes to stderr: stdout belongs to the protocol
    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    asyncio.run(_serve(Line(answers)))


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends.

    Args:
        parent: process id that started us; if it is gone already, we end at once.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the request took effect
        os._exit(0)


class Line:
    """Writes JSON lines to the parent, from any thread.

    Args:
        descriptor: where to.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._reported = 0.0

    def send(self, message: dict[str, Any]) -> None:
        """Write one message; the process ends if nobody reads any more."""
        data = orjson.dumps(message, default=str) + b"\n"
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                os._exit(0)

    def progress(self, fraction: float, text: str) -> None:
        """Report progress, a few times a second at most."""
        now = time.monotonic()
        if now - self._reported >= PROGRESS_EVERY_S:
            self._reported = now
            self.send({"progress": [round(fraction, 4), text]})


async def _serve(line: Line) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    hello = await _next(reader)
    dsn, name, pooled = (hello["hello"][word] for word in ("dsn", "application_name", "pooled"))

    async def own_connection() -> asyncpg.Connection:
        settings = {"client_connection_check_interval": "2s", "statement_timeout": "60s"}
        return await connect(dsn, application_name=name, settings=settings, pooled=pooled)

    line.send({"ready": os.getpid()})
    alive = asyncio.create_task(_tell_alive(line), name="alive")
    try:
        while True:
            message = await _next(reader)
            # The end of stdin during a load must end it: nobody is left to hear of it.
            watch = asyncio.create_task(_end_with(reader), name="watch stdin")
            answer = await _run(LoadRequest.from_json(message["load"]), own_connection, line.progress)
            watch.cancel()
            line.send({**answer, "memory": resident_bytes()})
    finally:
        alive.cancel()


async def _next(reader: asyncio.StreamReader) -> dict[str, Any]:
    data = await reader.readline()
    if not data.endswith(b"\n"):
        os._exit(0)
    message: dict[str, Any] = orjson.loads(data)
    return message


async def _end_with(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof():
        await asyncio.sleep(0.5)
    os._exit(0)


async def _tell_alive(line: Line) -> None:
    while True:
        line.send({"alive": True})
        await asyncio.sleep(ALIVE_EVERY_S)


async def _run(request: LoadRequest, connect_: load.Connect, report: Callable[[float, str], None]) -> dict[str, Any]:
    try:
        outcome = await load.run(request, connect_, report)
    except StaleClaim as error:
        return {"trouble": ["stale", error.message]}
    except DatabaseUnreachable as error:
        return {"trouble": ["unreachable", error.message]}
    except IngestdError as error:
        return {"trouble": ["trouble", error.message]}
    except Exception as error:  # noqa: BLE001 - told to the parent, which tries again
        return {"trouble": ["trouble", f"{type(error).__name__}: {str(error)[:2000]}"]}
    return {"outcome": outcome.to_json()}


def resident_bytes() -> int:
    """Memory of this process that is in RAM, in bytes; its peak where the kernel does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
