"""Recomputes dirty buckets: a lock, then for each stretch one statement that deletes the dirty rows and rewrites their buckets.

Exactly once by construction. The lock is taken in its own statement, so at READ COMMITTED the statement after it has a
snapshot that begins when the refresh before it is already visible: no older count can overwrite a newer one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from ingestd.rollups import sql
from ingestd.rollups.sql import Shape
from ingestd.rollups.store import dirty, registry
from ingestd.rollups.store.registry import Rollup

ROWS_AT_ONCE = 1_000_000
EVERYTHING = timedelta(days=4_000_000)
REFRESHED_FLAGS = ("on", "shadow")
STATEMENT_TIMEOUT = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh did.

    Args:
        chunks: stretches recomputed.
        groups: stored rows that changed, came or went.
        more: something was left for the next refresh.
        busy: another refresh has the rollup; nothing was done.
        ms: how long it took, in milliseconds.
    """

    chunks: int = 0
    groups: int = 0
    more: bool = False
    busy: bool = False
    ms: int = 0

    def __add__(self, other: Refreshed) -> Refreshed:
        return Refreshed(
            self.chunks + other.chunks,
            self.groups + other.groups,
            self.more or other.more,
            self.busy or other.busy,
            self.ms + other.ms,
        )


async def refresh(conn: asyncpg.Connection, name: str, *, budget_s: float = 20.0) -> Refreshed:
    """Refresh a rollup, and the successor being built for it, within the caller's READ COMMITTED transaction.

    Args:
        name: of the rollup.
        budget_s: begin no further stretch after this many seconds.
    """
    deadline = time.monotonic() + budget_s
    done = Refreshed()
    await dirty.prepare_session(conn, STATEMENT_TIMEOUT)
    for rollup in await registry.rollups_named(conn, name):
        if rollup.flag in REFRESHED_FLAGS and rollup.state == "ready":
            done += await _refresh_version(conn, rollup, deadline)
    return done


async def _refresh_version(conn: asyncpg.Connection, rollup: Rollup, deadline: float) -> Refreshed:
    assert rollup.source_id is not None
    assert rollup.columns is not None
    # Whoever asks for a refresh gets everything that was committed before.
    await dirty.normalise(conn, rollup.source_id)
    if not await dirty.try_lock_rollup(conn, rollup.id):
        return Refreshed(busy=True)
    began = time.monotonic()
    shape = Shape(rollup.spec, rollup.columns)
    if await dirty.endless(conn, rollup.id):
        await dirty.bound(conn, rollup.id, sql.bound(shape, rollup.table))
    stretch = await dirty.stretch(conn, rollup.id, shape.source, sql.qualified("rollups", rollup.table), ROWS_AT_ONCE)
    stretch = stretch or EVERYTHING
    await dirty.split(conn, rollup.id, stretch)
    statement = sql.refresh(shape, rollup.table)
    chunks = groups = more_rows = more_buckets = 0
    while (picked := await dirty.pick(conn, rollup.id, stretch)) is not None:
        if chunks and time.monotonic() > deadline:
            break
        counts = await dirty.recompute(conn, statement, picked)
        chunks += 1
        groups += counts["written"] + counts["gone"]
        more_rows += counts["more_rows"]
        more_buckets += counts["more_buckets"]
    ms = int((time.monotonic() - began) * 1000)
    await dirty.refreshed(conn, rollup.id, ms, more_rows, more_buckets)
    return Refreshed(chunks, groups, picked is not None, False, ms)
