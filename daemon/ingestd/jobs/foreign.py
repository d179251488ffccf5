"""Enqueueing on connections of other drivers, in their transaction: psycopg 3, and what speaks DB-API as it does.

Nothing is imported from them: whoever hands over a connection has the driver, and the daemon never needs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import asyncpg

from ingestd.errors import InvalidInput, UsageError
from ingestd.jobs.checks import checked
from ingestd.jobs.enqueue import Enqueued
from ingestd.jobs.model import NewJob
from ingestd.jobs.store.jobs import INSERT_EACH, rows_json

REFUSED = "22023"  # invalid_parameter_value: what our functions raise


def is_asyncpg(conn: Any) -> bool:
    """Whether it is an asyncpg connection, of a pool or not."""
    return isinstance(conn, asyncpg.Connection) or hasattr(conn, "fetchrow")


async def enqueue_foreign(conn: Any, jobs: Sequence[NewJob]) -> list[Enqueued]:
    """Enqueue on a psycopg AsyncConnection.

    Raises:
        InvalidInput: a job cannot be enqueued.
        UsageError: the connection would block the event loop.
    """
    said = _statement(jobs)
    if not inspect.iscoroutinefunction(getattr(conn, "execute", None)):
        raise UsageError("Client takes an asyncpg connection or a psycopg AsyncConnection; ingestd.SyncClient takes the others")
    async with conn.cursor(**_plain_rows(conn)) as cursor:
        try:
            await cursor.execute(INSERT_EACH, [said])
        except Exception as error:
            raise _worded(error) from error
        return [Enqueued(*row) for row in await cursor.fetchall()]


def enqueue_blocking(conn: Any, jobs: Sequence[NewJob]) -> list[Enqueued]:
    """Enqueue on a psycopg Connection, Django's `connection`, or another one with cursors.

    Raises:
        InvalidInput: a job cannot be enqueued.
        UsageError: it is a connection for async programs.
    """
    said = _statement(jobs)
    if is_asyncpg(conn) or inspect.iscoroutinefunction(getattr(conn, "execute", None)) or not hasattr(conn, "cursor"):
        raise UsageError("SyncClient takes a psycopg Connection or Django's; ingestd.Client takes the async ones")
    with conn.cursor(**_plain_rows(conn)) as cursor:
        try:
            cursor.execute(INSERT_EACH, [said])
        except Exception as error:
            raise _worded(error) from error
        return [Enqueued(*row) for row in cursor.fetchall()]


def _statement(jobs: Sequence[NewJob]) -> str:
    return rows_json(jobs, [checked(job) for job in jobs], ours=False)


def _plain_rows(conn: Any) -> dict[str, Any]:
    """Tuples, whatever rows the caller likes."""
    if type(conn).__module__.partition(".")[0] != "psycopg":
        return {}
    from psycopg.rows import tuple_row  # it is there: the connection is its

    return {"row_factory": tuple_row}


def _worded(error: Exception) -> Exception:
    for told in (error, error.__cause__):
        if getattr(told, "sqlstate", None) == REFUSED:
            hint = getattr(getattr(told, "diag", None), "message_hint", None) or ""
            return InvalidInput(str(error).splitlines()[0] + (f"; {hint}" if hint.startswith("declare") else ""))
    return error
