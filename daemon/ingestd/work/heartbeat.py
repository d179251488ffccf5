"""The node's life sign, in a thread with its own event loop and connection.

The session holds the node's advisory lock: it stays held while the main loop is blocked, and falls when the process dies.
Nobody is buried for being busy; but a main loop that has made no turn for `stall_limit` lets the beats end, and others take its
jobs. Through a pooler there is no session to hold a lock: the beats alone tell of life.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import asyncpg

from ingestd.events import Bus, DatabaseBack, DatabaseLost, Event, LoopBlocked, LoopFreed
from ingestd.jobs.store import rescue as rescue_store
from ingestd.logging import LogListener
from ingestd.postgres.outage import reason
from ingestd.postgres.pool import Database
from ingestd.service import backoff_s
from ingestd.work import store
from ingestd.work.loopwatch import LoopWatch
from ingestd.work.node import NodeIdentity

BEAT_S = 2.0
LOOK_S = 0.2
ANSWER_S = 5.0
# Without a beat for so long the node is not ready.
SILENT_S = 5.0
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
        bus: told on the main loop when the database goes and comes back, and when the loop was blocked.
        version: of this software.
        duties: what the node does.
        queues: names of the queues it serves.
        kinds: what it can run, asked at each registration.
        admin_url: where its admin server listens, asked at each registration.
        running: ids of the jobs that run, asked from this thread when the main loop cannot say it.
        stall_limit_s: with a main loop silent for so long the beats end, in seconds.
        blocked_after_s: with a main loop silent for so long its stack is logged, in seconds.
        feed: called several times a second, on this thread, until the main loop has been silent for `stall_limit_s`.
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
        running: Callable[[], Collection[int]] = tuple,
        stall_limit_s: float = 600.0,
        blocked_after_s: float = 1.0,
        feed: Callable[[], None] = lambda: None,
    ) -> None:
        self.state = "running"
        self.last_beat = 0.0
        self.sessions = 0
        self.said_goodbye = False
        self.trouble = ""
        self._db = db
        self._node = node
        self._bus = bus
        self._version = version
        self._duties = list(duties)
        self._queues = list(queues)
        self._kinds = kinds
        self._admin_url = admin_url
        self._jobs = running
        self._stall_limit_s = stall_limit_s
        self._blocked_after_s = blocked_after_s
        self._feed = feed
        self._main: asyncio.AbstractEventLoop | None = None
        self._watch: LoopWatch | None = None
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._again = threading.Event()
        # Of the thread's own loop, which is cut short in its rest by setting the event.
        self._own: asyncio.AbstractEventLoop | None = None
        self._nudge = asyncio.Event()
        self._lost_at: float | None = None
        self._failures = 0
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._run,), name="heartbeat", daemon=True)

    @property
    def silent_s(self) -> float:
        """Seconds since the last beat reached the database."""
        return time.monotonic() - self.last_beat

    @property
    def complaint(self) -> str:
        """Since when no beat has reached the database, and why, in words; empty while they do."""
        if self.silent_s <= SILENT_S:
            return ""
        why = f": {self.trouble}" if self.trouble else ""
        return f"no heartbeat has reached Postgres for {self.silent_s:.0f} s{why}"

    @property
    def lag_ms(self) -> float:
        """How late the main loop is, in milliseconds."""
        return self._watch.lag_ms if self._watch is not None else 0.0

    async def start(self) -> None:
        """Begin; returns once the lock is held and the row is written."""
        self._main = asyncio.get_running_loop()
        self._watch = LoopWatch(self._main, self._blocked_after_s, self._on_blocked, lambda s: self._tell(LoopFreed(round(s, 3))))
        self._thread.start()
        while not self._ready.is_set():
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Write the end of the node and let go of its lock."""
        self._stop.set()
        self._wake()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, ANSWER_S)
        if self._watch is not None:
            self._watch.stop()

    def register_again(self) -> None:
        """Write the node's row again: its kinds or address have changed."""
        self._again.set()
        self._wake()

    def _wake(self) -> None:
        if self._own is not None:
            with suppress(RuntimeError):  # the thread has ended
                self._own.call_soon_threadsafe(self._nudge.set)

    def _run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        self._own = asyncio.get_running_loop()
        looks = asyncio.create_task(self._keep_looking(), name="watch the main loop")
        while not self._stop.is_set():
            conn: asyncpg.Connection | None = None
            try:
                settings = None if self._db.sessionless else KEEPALIVE
                conn = await self._db.connect("heartbeat", settings=settings)
                conn.add_termination_listener(lambda _: self._nudge.set())
                if not self._db.sessionless:
                    await self._take_lock(conn)
                await self._beat_until_stopped(conn)
            except Exception as error:  # noqa: BLE001 - whatever ends a session, the thread must go on
                self._failures += 1
                self.sessions += 1  # whoever asks knows from now on, not only from when the next one has begun
                self._lost(error)
                await asyncio.sleep(min(backoff_s(self._failures), RECONNECT_S))
            finally:
                if conn is not None:
                    with suppress(Exception):
                        await conn.close(timeout=1)
        looks.cancel()

    async def _keep_looking(self) -> None:
        # Beside the beats: they may wait for Postgres just when the main loop is blocked.
        assert self._watch is not None
        blocked = False
        while True:
            self._watch.look()
            # Here and not at the beats: a watchdog that starved while Postgres is away would end all nodes at once.
            if not self._stalled:
                self._feed()
            if self._watch.blocked is not blocked:
                blocked = self._watch.blocked
                self._nudge.set()
            await asyncio.sleep(LOOK_S)

    async def _take_lock(self, conn: asyncpg.Connection) -> None:
        async with asyncio.timeout(LOCK_S):
            while not await store.take_lock(conn, self._node.id):
                # The server has not noticed yet that our session before this one is gone.
                await rescue_store.terminate_backends(conn, f"{self._node.application_name}:heartbeat")
                await asyncio.sleep(0.2)

    async def _beat_until_stopped(self, conn: asyncpg.Connection) -> None:
        assert self._watch is not None
        # The lock is held; but a node whose jobs were taken for a stall must not look alive before it is.
        await self._rest(conn, lambda: not self._stalled, forever=True)
        await self._register(conn)
        self.sessions += 1
        self._failures = 0
        self.trouble = ""
        self._found()
        self._ready.set()
        reported = False
        while not self._stop.is_set():
            if self._again.is_set():
                self._again.clear()
                await self._register(conn)
            if not self._stalled:
                await self._beat(conn)
            if self._watch.blocked and not reported:
                # What blocks the loop may be about to kill the process; its own report would come too late.
                async with asyncio.timeout(ANSWER_S):
                    await store.write_started(conn, self._node.id, list(self._jobs()))
            reported = self._watch.blocked
            await self._rest(conn, self._again.is_set if reported else self._again_or_blocked)
            if conn.is_closed():
                # Known before the next beat is due: the lock is to be taken again at once.
                raise ConnectionError("the session was ended")
        async with asyncio.timeout(ANSWER_S):
            await store.end(conn, self._node.id, "stopped")
        self.said_goodbye = True

    async def _beat(self, conn: asyncpg.Connection) -> None:
        assert self._watch is not None
        async with asyncio.timeout(ANSWER_S):
            if not await store.beat(conn, self._node.id, self._watch.lag_ms, self.state):
                # Declared dead while cut off or stopped: our old claims are fenced, the node itself goes on.
                await self._register(conn)
        self.last_beat = time.monotonic()

    async def _rest(self, conn: asyncpg.Connection, over: Callable[[], bool], *, forever: bool = False) -> None:
        """Wait until the next beat is due, or longer, but not past the end, of the session too, or what `over` says."""
        deadline = time.monotonic() + BEAT_S
        while not (self._stop.is_set() or over() or conn.is_closed()):
            left = LOOK_S if forever else deadline - time.monotonic()
            if left <= 0:
                return
            self._nudge.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._nudge.wait()

    def _again_or_blocked(self) -> bool:
        return self._again.is_set() or (self._watch is not None and self._watch.blocked)

    @property
    def _stalled(self) -> bool:
        return self._watch is not None and self._watch.silent_s > self._stall_limit_s

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
                by_heartbeat=self._db.sessionless,
            )
        self.last_beat = time.monotonic()

    def _on_blocked(self, seconds: float, stack: str) -> None:
        # Written from here, at once: the bus belongs to the main loop, which may never turn again.
        LogListener()(LoopBlocked(round(seconds, 3), stack))

    def _lost(self, error: Exception) -> None:
        self.trouble = reason(error)
        if self._lost_at is None and not self._stop.is_set():
            self._lost_at = time.monotonic()
            self._tell(DatabaseLost(f"{type(error).__name__}: {self.trouble}"))

    def _found(self) -> None:
        if self._lost_at is not None:
            self._tell(DatabaseBack(time.monotonic() - self._lost_at))
            self._lost_at = None

    def _tell(self, event: Event) -> None:
        if self._main is not None:
            with suppress(RuntimeError):
                self._main.call_soon_threadsafe(self._bus.emit, event)
