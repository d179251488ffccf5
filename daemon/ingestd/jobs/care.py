"""Looks after the hot tables where autovacuum does not: bloated indexes are rebuilt beside the old ones, starved tables vacuumed.

One node at a time, on a connection of its own, never in anybody's way. An old transaction makes both useless (see the
horizon's check), so a rebuild gives up after twenty seconds of waiting for one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from ingestd.events import Bus, IndexRebuilt, Notice
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.store import care as store
from ingestd.jobs.store.care import Index
from ingestd.postgres import locks
from ingestd.postgres.outage import OUTAGE, one_line
from ingestd.postgres.pool import Database

EVERY_S = 60.0
LOCK = "care"
CLOSE_S = 5.0
DROP_PATIENCE_MS = 2_000


@dataclass(frozen=True, slots=True)
class Limits:
    """When something is done.

    Args:
        least_bytes: a smaller index is never called bloated.
        times: an index is bloated that is so many times as large as expected.
        rebuild_every: one index is rebuilt at most so often, whatever became of the last time.
        patience_ms: how long a rebuild waits for a transaction.
        dead_times: a table is starved with so many times the dead rows that it should be vacuumed at …
        dead_least: … and at least so many …
        silent: … if nobody has vacuumed it for so long.
        cleanup_every: a cleanup is enqueued if nobody's was for so long; longer than a day, to leave it to a schedule that does.
    """

    least_bytes: int = 64 << 20
    times: int = 4
    rebuild_every: timedelta = timedelta(hours=1)
    patience_ms: int = 20_000
    dead_times: int = 10
    dead_least: int = 20_000
    silent: timedelta = timedelta(minutes=3)
    cleanup_every: timedelta = timedelta(hours=26)


class Care:
    """Does it, once a minute.

    Args:
        db: the node's pools.
        bus: where it is told.
        limits: see `Limits`.
    """

    def __init__(self, db: Database, bus: Bus, limits: Limits | None = None) -> None:
        self._db = db
        self._bus = bus
        self._limits = limits or Limits()
        self._suspects: set[str] = set()

    async def poll(self) -> float:
        """Look; only if there is something to do, open a connection and do it."""
        limits = self._limits
        async with self._db.services() as conn:
            await self._have_cleaned(conn)
            left = await store.left_over(conn)
            bloated = self._twice([index for index in await store.large_indexes(conn, limits.least_bytes) if is_bloated(index, limits)])
            starved = await store.starved(conn, limits.dead_times, limits.dead_least, limits.silent)
        if left or bloated or starved:
            async with self._alone() as own:
                if own is not None:
                    await self._drop(own)
                    await self._vacuum(own, starved)
                    await self._rebuild(own, bloated)
        return EVERY_S

    def _twice(self, bloated: Sequence[Index]) -> list[Index]:
        """Those that were bloated at the last look too: the server's numbers of rows may be some seconds behind its files."""
        before, self._suspects = self._suspects, {index.name for index in bloated}
        return [index for index in bloated if index.name in before]

    async def _have_cleaned(self, conn: asyncpg.Connection) -> None:
        """Enqueue a cleanup once a day, in case that no schedule does."""
        async with conn.transaction():
            if await store.cleanup_is_due(conn, self._limits.cleanup_every):
                await enqueue(conn, [NewJob("cleanup", queue="maintenance", unique_key="ingestd:cleanup", triggered_by="schedule")])

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[asyncpg.Connection | None]:
        own = await self._db.connect("care")
        try:
            async with locks.alone(own, LOCK) as mine:
                yield own if mine else None
        finally:
            with suppress(*OUTAGE):
                await own.close(timeout=CLOSE_S)

    async def _drop(self, own: asyncpg.Connection) -> None:
        # Looked at again: what was there before the lock was ours may have been a rebuild under way. A drop waits for the same
        # transactions that the rebuild waited for, and keeps autovacuum from the table meanwhile: the next look is soon enough.
        for name in await store.left_over(own):
            await store.be_patient(own, min(DROP_PATIENCE_MS, self._limits.patience_ms))
            try:
                await store.drop_index(own, name)
            except asyncpg.LockNotAvailableError:
                continue
            self._bus.emit(Notice(f"dropped {name}, which an interrupted rebuild had left", "info"))

    async def _vacuum(self, own: asyncpg.Connection, starved: Sequence[tuple[str, int]]) -> None:
        for name, dead in starved:
            if await store.take_turn(own, "vacuum", name, self._limits.silent):
                began = time.perf_counter()
                await store.vacuum(own, name)
                took = time.perf_counter() - began
                self._bus.emit(Notice(f"vacuumed {name} in {took:.1f} s: autovacuum had left {dead} dead rows in it", "info"))

    async def _rebuild(self, own: asyncpg.Connection, bloated: Sequence[Index]) -> None:
        for index in bloated:
            if await store.take_turn(own, "rebuild", index.name, self._limits.rebuild_every) and not await self._rebuild_one(own, index):
                return  # the others would wait for the same transaction, or for the same connection

    async def _rebuild_one(self, own: asyncpg.Connection, index: Index) -> bool:
        began = time.perf_counter()
        await store.be_patient(own, self._limits.patience_ms)
        try:
            after = await store.rebuild(own, index.name)
        except asyncpg.PostgresError as error:
            self._bus.emit(IndexRebuilt(index.name, index.bytes, index.bytes, _ms(began), one_line(error)))
            if not own.is_closed():
                await self._drop(own)
            return False
        self._bus.emit(IndexRebuilt(index.name, index.bytes, after, _ms(began)))
        return True


def is_bloated(index: Index, limits: Limits) -> bool:
    """Whether it is worth building anew."""
    return index.bytes > limits.least_bytes and index.bytes > limits.times * index.expected


def _ms(began: float) -> int:
    return round((time.perf_counter() - began) * 1000)
