"""The watch of slots, a loop apart from the scheduler and on every node: whether jobs of slots start and end in time, how they
ended, and whether anybody fires slots at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

from ingestd.events import Bus, Notice, SlotOverdue, SlotSlow, SlotsStopped
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.pool import Database
from ingestd.schedule.deadlines import Finding, WatchedSlot, judge
from ingestd.schedule.store import watch as store
from ingestd.schedule.store.watch import Glance
from ingestd.service import Poller
from ingestd.settings import format_duration

EVERY_S = 5.0
# Deadlines are watched to half a second: what falls due together is looked at together.
REST_S = 0.5
SLOTS_A_LOOK = 500
PUT_OFF = timedelta(minutes=5)
FLOOR_MARGIN = timedelta(seconds=10)
SWEEP_S = 60.0
# Four passes of a scheduler.
SILENCE = timedelta(seconds=60)
# A node that has only just begun, or got its database back, gives schedulers the time to do their first pass.
SURE_AFTER_S = 20.0
_TROUBLES_KEPT = 100


class SlotWatch(Poller):
    """Looks at slots whose job is open, on any number of nodes at once.

    Args:
        db: its service connections.
        bus: where broken deadlines are told.
    """

    def __init__(self, db: Database, bus: Bus) -> None:
        super().__init__("slot_watch", self.poll, bus)
        self.stopped_since: datetime | None = None
        self._db = db
        self._suspected_at: float | None = None
        self._floor: datetime | None = None
        self._sweep_at = 0.0
        self._troubles: dict[tuple[str, datetime], tuple[str, float]] = {}

    @property
    def troubles(self) -> list[str]:
        """Slots that cannot be judged, and why; each is tried again every few minutes."""
        recent = time.monotonic() - 2 * PUT_OFF.total_seconds()
        return [f"{schedule}: {error}" for (schedule, _), (error, at) in self._troubles.items() if at > recent]

    async def poll(self) -> float:
        """One look at whatever is due for one."""
        sweep = time.monotonic() >= self._sweep_at
        floor = None if sweep else self._floor
        async with self._db.services() as conn:
            glance = await store.glance(conn, SILENCE, floor)
            self._notice_silence(glance)
            if glance.too_far:
                await store.pull_near(conn)
                return 0.0
            is_due = glance.check_in is not None and glance.check_in <= 0
            findings = await self._look(conn, floor) if is_due else []
        self._tell(findings)
        if len(findings) == SLOTS_A_LOOK:
            return 0.0
        # All that was due is done, or held by another node. What comes late all the same is within the margin, or waits for a sweep.
        self._floor = glance.now - FLOOR_MARGIN
        if sweep:
            self._sweep_at = time.monotonic() + SWEEP_S
        return EVERY_S if glance.check_in is None else min(max(glance.check_in, REST_S), EVERY_S)

    async def _look(self, conn: asyncpg.Connection, floor: datetime | None) -> list[Finding]:
        try:
            async with conn.transaction():
                return await self._judge(conn, *await store.hold(conn, SLOTS_A_LOOK, floor))
        except OUTAGE:
            raise
        except Exception:  # noqa: BLE001 - whichever slot it was is found by looking at each alone
            return await self._look_at_each(conn, floor)

    async def _look_at_each(self, conn: asyncpg.Connection, floor: datetime | None) -> list[Finding]:
        findings: list[Finding] = []
        for schedule, due_at in await store.due(conn, SLOTS_A_LOOK, floor):
            try:
                async with conn.transaction():
                    findings += await self._judge(conn, *await store.hold_one(conn, schedule, due_at))
            except OUTAGE:
                raise
            except Exception as error:  # noqa: BLE001 - one slot that cannot be judged must not keep the others from it
                await store.put_off(conn, schedule, due_at, PUT_OFF)
                self._note_trouble(schedule, due_at, f"{type(error).__name__}: {error}")
        return findings

    async def _judge(self, conn: asyncpg.Connection, now: datetime | None, slots: Sequence[WatchedSlot]) -> list[Finding]:
        if now is None:
            return []
        jobs = await store.jobs_of(conn, slots, now)
        findings = [judge(slot, jobs.get(slot.job_id), now) for slot in slots]
        await store.write(conn, findings)
        return findings

    def _note_trouble(self, schedule: str, due_at: datetime, error: str) -> None:
        if (schedule, due_at) not in self._troubles:
            message = f"the slot of {due_at:%Y-%m-%d %H:%M:%S %Z} of schedule {schedule} cannot be watched: {error}"
            self._bus.emit(Notice(message, "error", {"schedule": schedule}))
        if len(self._troubles) >= _TROUBLES_KEPT:
            self._troubles.pop(next(iter(self._troubles)))
        self._troubles[schedule, due_at] = (error, time.monotonic())

    def _tell(self, findings: Sequence[Finding]) -> None:
        """After the commit, by the one node that has written it."""
        for found in findings:
            slot = found.slot
            self._troubles.pop((slot.schedule, slot.due_at), None)
            for deadline, reason in found.broke:
                self._bus.emit(SlotOverdue(slot.schedule, slot.due_at, deadline, slot.job_id, reason))
            if found.turned_slow and slot.target_runtime is not None:
                self._bus.emit(SlotSlow(slot.schedule, slot.due_at, slot.job_id, format_duration(slot.target_runtime)))

    def _notice_silence(self, glance: Glance) -> None:
        if glance.silent_since is None:
            self.stopped_since = self._suspected_at = None
            return
        self._suspected_at = self._suspected_at or time.monotonic()
        if self.stopped_since is None and time.monotonic() - self._suspected_at >= SURE_AFTER_S:
            self.stopped_since = glance.silent_since
            self._bus.emit(SlotsStopped(glance.silent_since, glance.waiting))
