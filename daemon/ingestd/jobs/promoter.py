"""Frees what waits: parents of finished children, heads of keys, steps whose parents are done.

Runs after every ack that may have freed something and once a second besides. Weakness: between an ack and the next pass a
job that could run waits; that is a second at most when the node that acked dies in between.
"""

from __future__ import annotations

from collections.abc import Callable

import asyncpg

from ingestd.jobs.model import State
from ingestd.jobs.store import history, promote
from ingestd.postgres.pool import Database

EVERY_S = 1.0
MAX_PASSES = 100


async def promote_once(conn: asyncpg.Connection) -> set[int]:
    """Free everything that can be freed now; returns the queues that got work."""
    woken: set[int] = set()
    async with conn.transaction():
        for row in [*await promote.unpark_parents(conn), *await promote.unpark_keys(conn)]:
            woken.add(row["queue_id"])
        # A skipped step may free or skip the ones behind it at once.
        for _ in range(MAX_PASSES):
            ready = await promote.ready_steps(conn)
            if not ready:
                break
            for step in ready:
                woken |= await _decide(conn, step)
        await promote.finish_runs(conn)
        if woken:
            await promote.notify(conn, woken)
    return woken


async def _decide(conn: asyncpg.Connection, step: asyncpg.Record) -> set[int]:
    if step["bad"] == 0 or step["on_failure"] == "run":
        return {row["queue_id"] for row in await promote.release_step(conn, step["run"], step["step"])}
    await history.end_waiting(conn, step["job_id"], State.SKIPPED, f"skipped: {step['names']}")
    await promote.close_step(conn, step["run"], step["step"], f"skipped: {step['names']}")
    return set()


class Promoter:
    """The promoter as a loop.

    Args:
        db: its pools.
        on_work: called when something became runnable in this process's queues.
    """

    def __init__(self, db: Database, on_work: Callable[[], None]) -> None:
        self._db = db
        self._on_work = on_work

    async def poll(self) -> float:
        """One pass; returns the seconds until the next."""
        async with self._db.services() as conn:
            if await promote_once(conn):
                self._on_work()
        return EVERY_S
