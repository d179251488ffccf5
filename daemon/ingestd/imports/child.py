"""The loader process: takes one load after another over stdin, answers over stdout, one JSON object a line.

To it: {"hello": {"dsn", "application_name", "pooled"}}, then {"load": {…LoadRequest}} whenever the last one was answered.
From it: {"ready": pid}, {"progress": [fraction, text]}, {"alive": true}, and for each load one of {"outcome": {…LoadOutcome}}
and {"trouble": [kind, message]}; both with "memory", its resident bytes.
It never outlives its parent: the kernel kills it when the parent dies, and the end of stdin ends it as well.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import asyncpg
import pyarrow as pa

from ingestd.children import Line, become_child, next_message, open_stdin, resident_bytes
from ingestd.errors import DatabaseUnreachable, IngestdError, Refused, StaleClaim
from ingestd.imports import load
from ingestd.imports.request import LoadRequest
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.session import AT_EASE, connect
from ingestd.postgres.silence import cut_silent, unanswered

ALIVE_EVERY_S = 5.0
LINES_EVERY_S = 5.0
LONGEST_LINE = 4 << 20
# A load makes its rows far faster: no byte for so long, and it is the line that says nothing.
ROWS_WITHIN_S = 60.0


def main() -> None:
    """Entry point: `python -m ingestd.imports.child PARENT_PID`."""
    line = become_child(int(sys.argv[1]))
    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    asyncio.run(_serve(line))


async def _serve(line: Line) -> None:
    reader = await open_stdin(LONGEST_LINE)
    hello = await _next(reader)
    dsn, name, pooled = (hello["hello"][word] for word in ("dsn", "application_name", "pooled"))

    lines: list[asyncpg.Connection] = []

    async def own_connection() -> asyncpg.Connection:
        settings = {**AT_EASE, "client_connection_check_interval": "2s", "statement_timeout": "60s"}
        try:
            conn = await connect(dsn, application_name=name, settings=settings, pooled=pooled)
        except Refused as error:
            # The daemon is in: that nobody else is let in now will pass, and must not cost the load an attempt.
            raise DatabaseUnreachable(error.message) from error
        lines[:] = [conn, *(other for other in lines if not other.is_closed())]
        return conn

    line.send({"ready": os.getpid()})
    asides = [asyncio.create_task(_tell_alive(line), name="alive")]
    if not pooled:
        asides.append(asyncio.create_task(_cut_silent(lines, own_connection), name="lines"))
    try:
        while True:
            message = await _next(reader)
            # The end of stdin during a load must end it: nobody is left to hear of it.
            watch = asyncio.create_task(_end_with(reader), name="watch stdin")
            answer = await _run(LoadRequest.from_json(message["load"]), own_connection, line.progress)
            watch.cancel()
            line.send({**answer, "memory": resident_bytes()})
    finally:
        for aside in asides:
            aside.cancel()


async def _next(reader: asyncio.StreamReader) -> dict[str, Any]:
    message = await next_message(reader)
    if message is None:
        os._exit(0)
    return message


async def _end_with(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof():
        await asyncio.sleep(0.5)
    os._exit(0)


async def _tell_alive(line: Line) -> None:
    while True:
        line.send({"alive": True})
        await asyncio.sleep(ALIVE_EVERY_S)


async def _cut_silent(lines: Sequence[asyncpg.Connection], connect_: load.Connect) -> None:
    """A load whose line has fallen silent must not wait for ever: nobody else can tell."""
    while True:
        await asyncio.sleep(LINES_EVERY_S)
        overdue = unanswered(conn for conn in lines if not conn.is_closed())
        if overdue:
            with suppress(*OUTAGE, asyncpg.PostgresError, IngestdError):
                ask = await connect_()
                try:
                    async with asyncio.timeout(LINES_EVERY_S):
                        await cut_silent(overdue, ask, ROWS_WITHIN_S)
                finally:
                    ask.terminate()


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


if __name__ == "__main__":
    main()
