"""Frees what waits: parents of finished children, heads of keys, steps of workflows whose parents are done.

Runs after every ack that may have freed something and once a second besides. Weakness: between an ack and the next pass a
job that could run waits; that is a second at most when the node that acked dies in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import asyncpg

from ingestd.jobs import progress
from ingestd.jobs.store import promote, steps
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.pool import Database

EVERY_S = 1.0
LOST_EVERY_S = 60.0


async def promote_once(conn: asyncpg.Connection) -> set[int]:
    """Free everything that can be freed now; returns the queues that got work."""
    woken: set[int] = set()
    wrong = await _runs(conn, woken)
    async with conn.transaction():
        freed = {row["queue_id"] for row in [*await promote.unpark_parents(conn), *await promote.unpark_keys(conn)]}
        if freed:
            await promote.notify(conn, freed)
    if wrong is not None:
        raise wrong
    return woken | freed


async def _runs(conn: asyncpg.Connection, woken: set[int]) -> Exception | None:
    """Each run in a transaction of its own: what is wrong with one holds up no other.

    Returns:
        The error of the last run that went wrong.
    """
    wrong: Exception | None = None
    after = 0
    while due := await steps.due_runs(conn, after):
        for run in due:
            try:
                woken |= await _run(conn, run)
            except OUTAGE:
                raise
            except Exception as error:  # noqa: BLE001 - told when the others have had their turn
                wrong = error
        after = due[-1]["id"]
    return wrong


async def _run(conn: asyncpg.Connection, run: asyncpg.Record) -> set[int]:
    async with conn.transaction():
        if run["state"] == "waiting":
            # Before the run itself, as whoever starts one does.
            await steps.lock_workflow(conn, run["workflow"])
        woken = await progress.advance(conn, run["id"])
        if woken:
            await promote.notify(conn, woken)
    return woken


class Promoter:
    """The promoter as a loop.

    Args:
        db: its pools.
        on_work: called when something became runnable in this process's queues.
    """

    def __init__(self, db: Database, on_work: Callable[[], None]) -> None:
        self._db = db
        self._on_work = on_work
        self._look_for_lost_at = 0.0

    async def poll(self) -> float:
        """One pass; returns the seconds until the next."""
        async with self._db.services() as conn:
            if time.monotonic() >= self._look_for_lost_at:
                await steps.close_lost(conn)
                self._look_for_lost_at = time.monotonic() + LOST_EVERY_S
            if await promote.anything_waits(conn) and await promote_once(conn):
                self._on_work()
        return EVERY_S
