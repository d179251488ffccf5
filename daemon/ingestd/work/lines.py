"""Cuts lines to Postgres that have fallen silent: a job on one would wait until its own timeout, if it has any."""

from __future__ import annotations

from ingestd.events import Bus, Notice
from ingestd.postgres.pool import Database

EVERY_S = 5.0


class Lines:
    """Looks at the connections in use.

    Args:
        db: the node's pools.
        bus: where it is told.
    """

    def __init__(self, db: Database, bus: Bus) -> None:
        self._db = db
        self._bus = bus

    async def poll(self) -> float:
        """One look; returns the seconds until the next."""
        cut = await self._db.cut_silent()
        if cut:
            self._bus.emit(Notice(f"{cut} lines to Postgres had fallen silent under a statement and are cut; jobs on them are handed back"))
        return EVERY_S
