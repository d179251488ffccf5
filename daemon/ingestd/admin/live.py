"""Live events for any number of listeners: one reader of the log, and a ring of what it read last.

A listener has no buffer of its own, only its place. One that falls behind the ring reads the log for itself, so slowness costs nobody
memory; one that takes nothing at all for a while is let go, and comes back with the id of the last event that it got.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

import asyncpg
import orjson

from ingestd.admin.store import events_after, events_span
from ingestd.errors import DatabaseUnreachable, TooOften
from ingestd.events import Bus
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.pool import Database
from ingestd.service import Poller

READ_EVERY_S = 0.5
ASLEEP_S = 60.0
READ_TIMEOUT_S = 10.0
LAST_WORDS_S = 1.0
RING = 2000
PAGE = 500
MOST_LISTENERS = 64


@dataclass(frozen=True, slots=True)
class Happening:
    """One event as it is sent."""

    id: int
    name: str
    data: bytes


class Live:
    """What listeners hear.

    Args:
        db: where the log of events is.
        bus: where failures of the reader are told.
    """

    def __init__(self, db: Database, bus: Bus) -> None:
        self._db = db
        self._ring: deque[Happening] = deque(maxlen=RING)
        self._newest: int | None = None
        self._turned = asyncio.Event()
        self._reading = asyncio.Lock()
        self.listeners = 0
        self.closing = False
        self.poller = Poller("live events", self.poll, bus)

    async def poll(self) -> float:
        """Read on, as long as anybody listens."""
        # The last reading comes from whoever ends the server, perhaps in the middle of one.
        async with self._reading:
            if not self.listeners:
                # Nobody to remember anything for; the next one starts at what is newest then.
                self._newest = None
                self._ring.clear()
                return ASLEEP_S
            newest = (await self.span())[1] if self._newest is None else self._newest
            found = await self._read(newest, PAGE)
            self._ring.extend(found)
            self._newest = found[-1].id if found else newest
            self._turn()
            return 0 if len(found) == PAGE else READ_EVERY_S

    async def finish(self) -> None:
        """Read what is written by now, so that this node's own end is heard through it too; then let all listeners go."""
        if self.closing:
            return
        self.poller.stop()
        with suppress(*OUTAGE, asyncpg.PostgresError, DatabaseUnreachable):
            async with asyncio.timeout(LAST_WORDS_S):
                while await self.poll() == 0:
                    pass
        self.closing = True
        self._turn()

    def check_room(self) -> None:
        """Refuse one listener too many.

        Raises:
            TooOften: there are as many as may be.
        """
        if self.listeners >= MOST_LISTENERS:
            raise TooOften(f"{MOST_LISTENERS} listen to events here already", retry_after_s=10)

    async def span(self) -> tuple[int, int]:
        """The ids of the oldest and of the newest event that can be told."""
        async with asyncio.timeout(READ_TIMEOUT_S), self._db.services() as conn:
            return await events_span(conn)

    async def listen(self, after: int) -> AsyncGenerator[list[Happening], None]:
        """What happens behind an event, in batches; an empty batch every now and then, where nothing does, or Postgres is away."""
        self.listeners += 1
        self.poller.wake()
        try:
            while True:
                turned, closing = self._turned, self.closing
                try:
                    found = await self._behind(after)
                except (*OUTAGE, asyncpg.PostgresError, DatabaseUnreachable):
                    found = []
                if found:
                    after = found[-1].id
                elif closing:
                    return
                else:
                    await _wait(turned, READ_EVERY_S * 4)
                yield found
        finally:
            self.listeners -= 1

    async def _behind(self, after: int) -> list[Happening]:
        if self._newest is None or after >= self._newest:
            return []
        if self._ring and self._ring[0].id <= after + 1:
            return [one for one in self._ring if one.id > after]
        return await self._read(after, PAGE)

    async def _read(self, after: int, limit: int) -> list[Happening]:
        async with asyncio.timeout(READ_TIMEOUT_S), self._db.services() as conn:
            return [_happening(row) for row in await events_after(conn, after, limit)]

    def _turn(self) -> None:
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _happening(row: asyncpg.Record) -> Happening:
    told = {"id": str(row["id"]), "at": row["at"], "node": row["node"], "event": row["name"], "data": row["data"]}
    return Happening(row["id"], row["name"], orjson.dumps(told, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC))
