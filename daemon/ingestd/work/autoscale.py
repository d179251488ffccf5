"""How many slots a queue has on this node, between what it needs when nothing happens and what the configuration allows.

More while jobs wait and the event loop keeps up; fewer once they have not all been needed for a minute. Jobs that run are never
interrupted: a slot that is too many ends with its job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg

from ingestd.events import Bus, Notice
from ingestd.jobs.store import nodes as store
from ingestd.postgres.pool import Database
from ingestd.service import Poller
from ingestd.work.claimer import Claimer
from ingestd.work.lane import Lane
from ingestd.work.node import NodeIdentity

EVERY_S = 1.0
# Nothing is scaled: only often enough to hear within two seconds that the node is to drain.
SELDOM_S = 1.8
IDLE_S = 60.0
LAG_MS = 50.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a queue has to do on this node.

    Args:
        slots: it has now.
        least: it may have, at the least.
        most: at the most.
        running: slots that run a job.
        waiting: whether a job waits that could start now.
        peak: the most slots that ran a job at the same time in the last `calm_s`.
        calm_s: seconds for which some slot was free all the time.
        lag_ms: how late the event loop is.
    """

    slots: int
    least: int
    most: int
    running: int
    waiting: bool
    peak: int
    calm_s: float
    lag_ms: float


def decide(load: Load) -> tuple[int, str]:
    """How many slots the queue should have, and why; as many as it has where there is nothing to change."""
    if load.waiting and load.running >= load.slots and load.slots < load.most:
        if load.lag_ms >= LAG_MS:
            return load.slots, f"jobs wait, but the event loop is {load.lag_ms:.0f} ms late: not more than {load.slots} slots"
        more = min(load.most, load.slots + max(1, load.slots // 2))
        return more, f"jobs waited while all {load.slots} slots were taken: {more} slots"
    needed = max(load.least, load.peak)
    if load.calm_s >= IDLE_S and needed < load.slots:
        return needed, f"no more than {load.peak} of {load.slots} slots were taken for {load.calm_s:.0f} s: {needed} slots"
    return load.slots, ""


@dataclass(slots=True)
class Calm:
    """Since when some slot of a queue was free, and how many were taken since at the most."""

    since: float
    peak: int = 0

    def note(self, now: float, running: int, slots: int) -> None:
        """Look at the queue once more."""
        if running >= slots:
            self.since, self.peak = now, 0
        else:
            self.peak = max(self.peak, running)


@dataclass
class Autoscaler:
    """Scales the queues of this node, publishes what they have, and hears when the node is asked to drain.

    Args:
        db: its pools.
        node: which one this is.
        bus: where changes are told.
        claimer: has the queues.
        kinds: what this process can run, asked at each pass.
        lag_ms: how late the event loop is.
        on_drain: called once with the name of whoever asked this node to drain.
    """

    db: Database
    node: NodeIdentity
    bus: Bus
    claimer: Claimer
    kinds: Callable[[], list[str]]
    lag_ms: Callable[[], float]
    on_drain: Callable[[str], None]
    poller: Poller = field(init=False)
    _calm: dict[int, Calm] = field(default_factory=dict)
    _told: Mapping[str, Any] | None = None
    _drained: bool = False

    def __post_init__(self) -> None:
        self.poller = Poller("autoscaler", self.poll, self.bus)

    async def poll(self) -> float:
        """One pass; returns the seconds until the next."""
        async with self.db.services() as conn:
            await self._scale(conn)
            lanes = {lane.name: _shown(lane) for lane in self.claimer.lanes.values()}
            if lanes != self._told:
                await store.tell_lanes(conn, self.node.id, lanes)
                self._told = lanes
            asker = None if self._drained else await store.drain_asked(conn, self.node.id)
        if asker is not None:
            self._drained = True
            self.on_drain(asker)
        return EVERY_S if any(lane.least for lane in self.claimer.lanes.values()) else SELDOM_S

    async def _scale(self, conn: asyncpg.Connection) -> None:
        scaled = [lane for lane in self.claimer.lanes.values() if lane.least and not lane.paused]
        full = [lane.id for lane in scaled if lane.running >= lane.slots < lane.most]
        waiting = await store.waiting(conn, full, self.kinds(), self.node.store) if full else set()
        now = time.monotonic()
        for lane in scaled:
            calm = self._calm.setdefault(lane.id, Calm(now))
            calm.note(now, lane.running, lane.slots)
            # Claimed ahead counts as well: it waits here for a slot.
            waits = lane.id in waiting or lane.held > 0
            load = Load(lane.slots, lane.least, lane.most, lane.running, waits, calm.peak, now - calm.since, self.lag_ms())
            slots, reason = decide(load)
            if slots != lane.slots:
                self._calm[lane.id] = Calm(now)
                lane.reason, lane.scaled_at = reason, datetime.now(UTC)
                self.claimer.scale(lane, slots)
                self.bus.emit(Notice(f"{lane.name}: {reason}", level="info", details={"queue": lane.name, "slots": slots}))
            elif reason:
                lane.reason = reason


def _shown(lane: Lane) -> dict[str, Any]:
    return {
        "slots": lane.slots,
        "min": lane.least or lane.most,
        "max": lane.most,
        "running": lane.running,
        "paused": lane.paused,
        "changed_at": lane.scaled_at.isoformat() if lane.scaled_at else None,
        "reason": lane.reason or None,
    }
