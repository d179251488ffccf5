"""The loop that fires slots: woken by one timer at the next due moment, looking by itself soon after it, and every 15 s besides.

The timer runs by this process's clock and only wakes; whether a slot is due is asked of the database. A clock that is wrong or
steps, or a timer that is lost, costs a second of lateness and never a slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from ingestd.events import Bus, Downtime, Notice
from ingestd.postgres.pool import Database
from ingestd.schedule.dependencies import NOT_LOOKED_UP, Successes
from ingestd.schedule.firing import Firer, announce
from ingestd.schedule.store import downtime
from ingestd.schedule.store import firing as store
from ingestd.schedule.store.firing import RecordedSlot
from ingestd.schedule.waiting import look_again
from ingestd.service import Poller

EVERY_S = 15.0
# Another node holds what is due: it is about to be fired, unless that node just died.
HELD_S = 0.25
# A clock set back while the timer runs has it ring too late by that much; the loop's own rest is measured by the monotonic one.
TIMER_GRACE_S = 0.5
# While a slot waits for a success, which nothing tells of.
WAITING_S = 2.0
# A gap between two passes, whichever nodes did them, that is downtime; and how often a pass leaves word of itself.
GAP = timedelta(seconds=60)
BEAT = timedelta(seconds=5)
_TIMER = "next_slot"


class Scheduler(Poller):
    """Fires the slots of all schedules; runs on any number of nodes at once.

    Args:
        db: its service connections.
        bus: where fired and missed slots are told.
        successes: asked about what schedules depend on.
    """

    def __init__(self, db: Database, bus: Bus, successes: Successes | None = None) -> None:
        super().__init__("slots", self.poll, bus)
        self._db = db
        self._successes = successes
        self._firer = Firer(successes)
        self._blind = False
        self._timer = AsyncIOScheduler(timezone=UTC)

    async def run(self) -> None:
        """Fire slots until `stop` is called."""
        self._timer.start()
        try:
            await super().run()
        finally:
            self._timer.shutdown(wait=False)

    async def poll(self) -> float:
        """One pass: fire what is due, end what has waited, set the timer to the next moment."""
        async with self._db.services() as conn:
            uncounted = await downtime.note(conn, GAP)
            done = await self._firer.fire(conn)
            await _tell(conn, self._bus, done.recorded, done.problems)
            ended, waiting = await self._look_again(conn)
            await _tell(conn, self._bus, ended)
            # Last: a scheduler that fails in each pass is as good as none.
            await downtime.beat(conn, BEAT)
            if done.more:
                return 0.0
            if uncounted:
                await self._count_downtime(conn)
            seconds = await store.next_in(conn)
        rest = WAITING_S if waiting else EVERY_S
        if seconds is None:
            return rest
        if seconds <= 0:
            return HELD_S
        self._set_timer(seconds)
        return min(rest, seconds + TIMER_GRACE_S)

    async def _look_again(self, conn: asyncpg.Connection) -> tuple[list[RecordedSlot], bool]:
        if self._successes is None:
            return [], False
        try:
            found = await look_again(conn, self._successes)
        except NOT_LOOKED_UP as error:
            # Slots that depend on nothing go on. If Postgres is gone, the next statement says so.
            if not self._blind:
                self._bus.emit(Notice(f"what slots wait for cannot be looked up: {error or type(error).__name__}", "error"))
            self._blind = True
            return [], True
        self._blind = False
        return found

    async def _count_downtime(self, conn: asyncpg.Connection) -> None:
        for row in await downtime.count(conn):
            self._bus.emit(Downtime(row["began_at"], row["ended_at"], row["schedules"], row["missed"], row["late"]))

    def _set_timer(self, seconds: float) -> None:
        if not self._timer.running:
            return
        self._timer.add_job(
            self._ring,
            # A little late rather than a little early: early finds nothing due.
            DateTrigger(datetime.now(UTC) + timedelta(seconds=min(seconds, 86_400.0) + 0.002), timezone=UTC),
            id=_TIMER,
            replace_existing=True,
            # By default a job whose moment passed a second ago, because the loop was busy, is dropped.
            misfire_grace_time=None,
        )

    async def _ring(self) -> None:
        self.wake()


async def _tell(conn: asyncpg.Connection, bus: Bus, recorded: Sequence[RecordedSlot], problems: Sequence[tuple[str, str]] = ()) -> None:
    missed = [slot.due_at for slot in recorded if slot.state == "missed"]
    announce(bus, recorded, problems, await downtime.spans(conn, min(missed)) if missed else ())


async def fire_once(db: Database, bus: Bus, successes: Successes | None = None) -> int:
    """Fire everything that is due now, without a loop; returns how many jobs that enqueued.

    Whoever fires now and then has no downtime in between: each missed slot is told.
    """
    firer = Firer(successes)
    async with db.services() as conn:
        recorded = await firer.fire_all(conn)
        if successes is not None:
            recorded += (await look_again(conn, successes))[0]
    announce(bus, recorded)
    return sum(slot.job_id is not None for slot in recorded)
