"""The loop that keeps rollups: sets them up, hands the dirty log to them, and enqueues a refresh for each that is due."""

from __future__ import annotations

from datetime import timedelta

from ingestd.jobs.enqueue import enqueue
from ingestd.postgres.pool import Database
from ingestd.rollups.actions import refresh_job
from ingestd.rollups.store import dirty
from ingestd.rollups.tend import tend

QUIET = timedelta(milliseconds=500)
IDLE_S = 1.0
BUSY_S = 0.5
LOG_ROWS = 1000


class Upkeep:
    """One pass of `poll` a second, on every node; nothing depends on which node does it.

    Args:
        db: its service connections are used.
        quiet: a rollup whose source has not changed for so long is refreshed.
    """

    def __init__(self, db: Database, quiet: timedelta = QUIET) -> None:
        self._db = db
        self._quiet = quiet

    async def poll(self) -> float:
        """Do one pass.

        Returns:
            Seconds until the next.
        """
        async with self._db.services() as conn:
            await tend(conn)
            moved = await dirty.any_raw(conn) and await dirty.normalise(conn)
            names = await dirty.due(conn, self._quiet)
            if names:
                # One open refresh a rollup: the unique key returns it instead of making another.
                await enqueue(conn, [refresh_job(name, triggered_by="change") for name in names])
            await dirty.compact(conn, LOG_ROWS)
        return BUSY_S if moved else IDLE_S
