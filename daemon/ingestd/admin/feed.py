"""Writes what happens on this node into the log of events, so that whoever follows any node hears of all."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ingestd.admin.happenings import DROPPED, SUCCEEDED, data_of, name_of
from ingestd.admin.store import forget_events, write_events
from ingestd.events import Bus, Event, JobsSucceeded
from ingestd.postgres.pool import Database
from ingestd.service import Poller

WRITE_EVERY_S = 0.5
WRITE_TIMEOUT_S = 10.0
FORGET_EVERY_S = 60.0
# At most so many rows twice a second from each node: those who follow are people and dashboards, and the log must stay small.
MOST_AT_ONCE = 200

Row = tuple[datetime, str, dict[str, Any]]


class Feed:
    """Listens to a node's events and writes them down in batches; what is too much is counted and told as that.

    Args:
        db: where the log is.
        bus: what to listen to.
        node: the node's name.
    """

    def __init__(self, db: Database, bus: Bus, node: str) -> None:
        self._db = db
        self._node = node
        self._rows: deque[Row] = deque()
        self._writing: list[Row] = []
        self._succeeded: Counter[str] = Counter()
        self._milliseconds: Counter[str] = Counter()
        self._dropped = 0
        self._forget_at = 0.0
        self._turn = asyncio.Lock()
        self.poller = Poller("events", self.poll, bus)
        bus.subscribe(self)

    def wants(self, _kind: type[Event]) -> bool:
        """Whether it cares for what happens for every job: never, that would be too much."""
        return False

    def __call__(self, event: Event) -> None:
        """Hear of an event."""
        if isinstance(event, JobsSucceeded):
            self._succeeded[event.kind] += len(event.durations_ms)
            self._milliseconds[event.kind] += sum(event.durations_ms)
        elif (name := name_of(event)) is not None:
            if len(self._rows) >= MOST_AT_ONCE:
                self._dropped += 1
            else:
                self._rows.append((datetime.now(UTC), name, data_of(event)))

    async def poll(self) -> float:
        """Write down what happened since the last pass."""
        await self._write()
        if time.monotonic() >= self._forget_at:
            async with asyncio.timeout(WRITE_TIMEOUT_S), self._db.services() as conn:
                await forget_events(conn)
            self._forget_at = time.monotonic() + FORGET_EVERY_S
        return WRITE_EVERY_S

    async def close(self) -> None:
        """Write down the last of it, if that can be done in a moment."""
        with suppress(Exception):
            async with asyncio.timeout(1):
                await self._write()
                await self._write()  # the first may have been what could not be written before

    async def _write(self) -> None:
        async with self._turn:
            # What could not be written is written again, as it was; if only the answer was lost, it is there twice.
            self._writing = self._writing or self._take()
            if not self._writing:
                return
            async with asyncio.timeout(WRITE_TIMEOUT_S), self._db.services() as conn, conn.transaction():
                await write_events(conn, self._node, self._writing)
            self._writing = []

    def _take(self) -> list[Row]:
        rows, self._rows = [*self._rows], deque()
        now = datetime.now(UTC)
        for kind, count in self._succeeded.items():
            mean = round(self._milliseconds[kind] / count, 1) if count else 0.0
            rows.append((now, SUCCEEDED, {"kind": kind, "count": count, "mean_ms": mean}))
        if self._dropped:
            rows.append((now, DROPPED, {"count": self._dropped}))
        self._succeeded.clear()
        self._milliseconds.clear()
        self._dropped = 0
        return rows
