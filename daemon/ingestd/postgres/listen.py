"""LISTEN on one connection of its own; polling is always on besides, so a lost message costs only time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import asyncpg

from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.pool import Database

CHECK_EVERY_S = 5.0
CHECK_TIMEOUT_S = 5.0


class Listener:
    """Keeps a listening connection alive and hands payloads to callbacks.

    Args:
        db: where to connect, past any pooler.
        channels: channel name -> callback taking the payload; called on the event loop.
    """

    def __init__(self, db: Database, channels: Mapping[str, Callable[[str], None]]) -> None:
        self._db = db
        self._channels = dict(channels)
        self._conn: asyncpg.Connection | None = None

    async def poll(self) -> float:
        """Connect where needed and prove that the connection still answers: a half-open one never errs by itself."""
        conn = self._conn
        fresh = conn is None or conn.is_closed()
        if conn is None or fresh:
            conn = self._conn = await self._db.connect("listen")
        try:
            # LISTEN is refused by a standby, and its line may fall silent like any other: a session that listens to some channels,
            # or to none, is not kept.
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                if fresh:
                    for channel in self._channels:
                        await conn.add_listener(channel, self._hear)
                await conn.execute("select 1")
        except BaseException:
            self._drop()
            raise
        if fresh:
            # What was sent while nobody listened is made up for by one look.
            for callback in self._channels.values():
                callback("")
        return CHECK_EVERY_S

    def renew(self) -> None:
        """Trust the connection no longer: it may still be open to a server that was taken over from. The next pass makes a new one."""
        self._drop()

    def _hear(self, _conn: Any, _pid: int, channel: str, payload: str) -> None:
        self._channels[channel](payload)

    def _drop(self) -> None:
        if self._conn is not None:
            with suppress(Exception):
                self._conn.terminate()
        self._conn = None

    async def close(self) -> None:
        """Close the connection."""
        if self._conn is not None and not self._conn.is_closed():
            with suppress(*OUTAGE):
                await self._conn.close(timeout=2)
        self._conn = None
