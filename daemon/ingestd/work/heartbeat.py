"""The node's life sign, in a thread with its own event loop and connection.

The session holds the node's advisory lock: it stays held while the main loop is blocked, and falls when the process dies.
Nobody is buried for being busy.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import asyncpg

from ingestd.events import Bus, DatabaseBack, DatabaseLost, Event
from ingestd.jobs.store import rescue as rescue_store
from ingestd.postgres.pool import Database
from ingestd.service import backoff_s
from ingestd.work import store
from ingestd.work.node import NodeIdentity

BEAT_S = 2.0
ANSWER_S = 5.0
# Others wait 30 s after a restart of the server for living nodes to take their locks again: be there soon.
RECONNECT_S = 2.0
LOCK_S = 20.0
# A host that vanishes is noticed by the server, which then lets go of the lock: 5 + 2 * 3 seconds, and 15 at most.
KEEPALIVE = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


class Heartbeat:
    """Holds the lock and writes the heartbeat row until stopped.

    Args:
        db: where to connect, past any pooler.
        node: whose life it is.
        bus: told on the main loop when the database goes and comes back.
        version: of this software.
        duties: what the node does.
        queues: names of the queues it serves.
        kinds: what it can run, asked at each registration.
        admin_url: where its admin server listens, asked at each registration.
    """

    def __init__(
        self,
        db: Database,
        node: NodeIdentity,
        bus: Bus,
        *,
        version: str,
        duties: Sequence[str],
        queues: Sequence[str],
        kinds: Callable[[], list[str]],
        admin_url: Callable[[], str | None],
    ) -> None:
        self.state = "running"
        self.loop_lag_ms = 0.0
        self.last_beat = 0.0
        self.sessions = 0
        self.said_goodbye = False
        self._db = db
        self._node = node
        self._bus = bus
        self._version = version
        self._duties = list(duties)
        self._queues = list(queues)
        self._kinds = kinds
        self._admin_url = admin_url
        self._main: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._again = threading.Event()
        self._lost_at: float | None = None
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def silent_s(self) -> float:
        """Seconds since the last beat reached the database."""
        return time.monotonic() - self.last_beat

    async def start(self) -> None:
        """Begin; returns once the lock is held and the row is written."""
        self._main = asyncio.get_running_loop()
        self._thread.start()
        while not self._ready.is_set():
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Write the end of the node and let go of its lock."""
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, ANSWER_S)

    def register_again(self) -> None:
        """Write the node's row again: its kinds or address have changed."""
        self._again.set()

    def _run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        while not self._stop.is_set():
            conn: asyncpg.Connection | None = None
            try:
                conn = await self._db.connect("heartbeat", settings=KEEPALIVE)
                await self._take_lock(conn)
                await self._beat_until_stopped(conn)
            except Exception as error:  # noqa: BLE001 - whatever ends a session, the thread must go on
                self._failures += 1
                self._lost(error)
                await asyncio.sleep(min(backoff_s(self._failures), RECONNECT_S))
            finally:
                if conn is not None:
                    with suppress(Exception):
                        await conn.close(timeout=1)

    async def _take_lock(self, conn: asyncpg.Connection) -> None:
        async with asyncio.timeout(LOCK_S):
            while not await store.take_lock(conn, self._node.id):
                # The server has not noticed yet that our session before this one is gone.
                await rescue_store.terminate_backends(conn, f"{self._node.application_name}:heartbeat")
                await asyncio.sleep(0.2)

    async def _beat_until_stopped(self, conn: asyncpg.Connection) -> None:
        await self._register(conn)
        self.sessions += 1
        self._failures = 0
        self._found()
        self._ready.set()
        while not self._stop.is_set():
            self.loop_lag_ms = await self._measure_lag()
            if self._again.is_set():
                self._again.clear()
                await self._register(conn)
            async with asyncio.timeout(ANSWER_S):
                if not await store.beat(conn, self._node.id, self.loop_lag_ms, self.state):
                    # Declared dead while cut off: our old claims are fenced, the node itself goes on.
                    await self._register(conn)
            self.last_beat = time.monotonic()
            for _ in range(20):
                if self._stop.is_set() or self._again.is_set():
                    break
                await asyncio.sleep(BEAT_S / 20)
        async with asyncio.timeout(ANSWER_S):
            await store.end(conn, self._node.id, "stopped")
        self.said_goodbye = True

    async def _register(self, conn: asyncpg.Connection) -> None:
        async with asyncio.timeout(ANSWER_S):
            await store.register(
                conn,
                self._node,
                version=self._version,
                duties=self._duties,
                queues=self._queues,
                kinds=self._kinds(),
                admin_url=self._admin_url(),
            )
        self.last_beat = time.monotonic()

    async def _measure_lag(self) -> float:
        """Milliseconds the main loop takes to answer; capped by the beat, so a blocked loop never stops the heart."""
        assert self._main is not None
        began = time.monotonic()
        answered = threading.Event()
        with suppress(RuntimeError):
            self._main.call_soon_threadsafe(answered.set)
        while not answered.is_set() and time.monotonic() - began < BEAT_S and not self._stop.is_set():
            await asyncio.sleep(0.001)
        return (time.monotonic() - began) * 1000

    def _lost(self, error: Exception) -> None:
        if self._lost_at is None and not self._stop.is_set():
            self._lost_at = time.monotonic()
            self._tell(DatabaseLost(f"{type(error).__name__}: {error}"))

    def _found(self) -> None:
        if self._lost_at is not None:
            self._tell(DatabaseBack(time.monotonic() - self._lost_at))
            self._lost_at = None

    def _tell(self, event: Event) -> None:
        if self._main is not None:
            with suppress(RuntimeError):
                self._main.call_soon_threadsafe(self._bus.emit, event)
