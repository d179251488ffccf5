"""`run --once`: whatever is due now is done, and the node ends; for hosts whose cron is the daemon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from datetime import timedelta

from ingestd.app.rooms import Rooms
from ingestd.app.successes import successes
from ingestd.errors import DatabaseUnreachable
from ingestd.imports.arrivals import Cause
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.store.claim import anything_to_do
from ingestd.postgres.outage import OUTAGE
from ingestd.rollups.upkeep import Upkeep
from ingestd.schedule.firing import announce
from ingestd.schedule.scheduler import fire_once
from ingestd.schedule.waiting import look_again

LOOK_S = 0.1
# What is due and still does not begin waits for somebody's limit: the next run finds it.
PATIENCE_S = 5.0
# A load may commit between the look at rollups and the look at jobs; it does not do so twice.
QUIET_LOOKS = 2


class Once:
    """Works off what is due on a node whose loops of its own accord are not started.

    Args:
        rooms: started, and claiming where it has the duty to work.
        duties: `work` scans sources, runs jobs and refreshes rollups; `schedule` fires slots.
    """

    def __init__(self, rooms: Rooms, duties: Collection[str]) -> None:
        self._rooms = rooms
        self._duties = duties
        self._rollups = Upkeep(rooms.db, quiet=timedelta(0))
        self._busy_at = time.monotonic()

    async def work_off(self, stop: asyncio.Event) -> None:
        """Fire due slots, look at every source once, and wait until nothing more can be done now.

        What falls due meanwhile is left to the next run: a schedule of every second would never let this one end.

        Args:
            stop: set when somebody wants it to end before that.

        Raises:
            DatabaseUnreachable: Postgres has been away for `[daemon] start_timeout`.
        """
        if "schedule" in self._duties:
            await fire_once(self._rooms.db, self._rooms.bus, successes)
        if "work" in self._duties:
            await self._scan(stop)
        quiet, lost_at = 0, None
        while quiet < QUIET_LOOKS and not stop.is_set():
            try:
                quiet = quiet + 1 if await self._nothing_to_do() else 0
                lost_at = None
            except OUTAGE as error:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > self._rooms.in_force.settings.daemon.start_timeout.total_seconds():
                    raise DatabaseUnreachable(f"Postgres went away: {str(error) or type(error).__name__}") from None
            await asyncio.sleep(LOOK_S)

    async def _scan(self, stop: asyncio.Event) -> None:
        for name, settings in self._rooms.in_force.settings.imports.items():
            if settings.pattern and settings.poll is not None and not stop.is_set():
                await self._rooms.watch.visit(name, settings, Cause())

    async def _nothing_to_do(self) -> bool:
        """One look; what it finds to be due has been enqueued or freed by it."""
        rooms = self._rooms
        if "schedule" in self._duties:
            await self._fire_what_waited()
        if "work" not in self._duties:
            return True
        await self._rollups.poll()
        async with rooms.db.services() as conn:
            if await promote_once(conn):
                rooms.worker.wake()
                return False
            due, held = await anything_to_do(
                conn, rooms.node.id, list(rooms.in_force.settings.slots()), rooms.registry.kinds(), rooms.node.store
            )
        if held or rooms.worker.running or rooms.worker.acker.unwritten:
            self._busy_at = time.monotonic()
            return False
        return not due or time.monotonic() - self._busy_at > PATIENCE_S

    async def _fire_what_waited(self) -> None:
        """Slots that wait for a success which a job of this run may have brought."""
        async with self._rooms.db.services() as conn:
            ended, _ = await look_again(conn, successes)
        announce(self._rooms.bus, ended)
