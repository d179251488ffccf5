"""What is open in the queue, for tests to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from ingestd.postgres.pool import Database
from ingestd.testing import store
from ingestd.testing.lending import lend
from ingestd.testing.sandbox import Sandbox

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Open:
    """An open job.

    Args:
        state: scheduled, blocked, available, running or retrying.
        attempt: how often it was tried.
    """

    id: int
    kind: str
    queue: str
    args: Mapping[str, Any]
    priority: int
    run_at: datetime
    attempt: int
    max_attempts: int
    key: str | None
    unique_key: str | None
    tags: list[str]
    notes: str | None
    metadata: Any
    correlation_id: str | None
    parent_id: int | None
    state: str


async def enqueued(
    database: str | Database | asyncpg.Connection | Sandbox,
    kind: str | None = None,
    args: Mapping[str, Any] | None = None,
    *,
    queue: str | None = None,
) -> list[Open]:
    """Open jobs, in the order they were enqueued.

    Args:
        database: as in `run`.
        args: only those whose arguments include these.
    """
    async with lend(database) as db, db.services() as conn:
        return await open_jobs(conn, kind, args, queue)


async def assert_enqueued(
    database: str | Database | asyncpg.Connection | Sandbox,
    kind: str,
    args: Mapping[str, Any] | None = None,
    *,
    queue: str | None = None,
    count: int | None = None,
) -> list[Open]:
    """As `enqueued`.

    Args:
        count: exactly so many; None: at least one.

    Raises:
        AssertionError: there are not; says what is there.
    """
    async with lend(database) as db, db.services() as conn:
        found = await open_jobs(conn, kind, args, queue)
        if len(found) == count or (found and count is None):
            return found
        there = await open_jobs(conn)
    listed = "".join(f"\n  {job.kind} {dict(job.args)} in {job.queue}, {job.state}" for job in there[:SHOWN]) or " nothing"
    more = f"\n  and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    wanted = f"{kind} {dict(args)}" if args else kind
    raise AssertionError(
        f"{len(found)} jobs {wanted} are enqueued, not {'one or more' if count is None else count}; open are:{listed}{more}"
    )


async def open_jobs(
    conn: asyncpg.Connection, kind: str | None = None, args: Mapping[str, Any] | None = None, queue: str | None = None
) -> list[Open]:
    """Open jobs, read through a connection."""
    return [Open(**row) for row in await store.open_jobs(conn, kind, queue, None if args is None else dict(args))]
