"""The sign of life to the outside: a URL is called again and again while the database answers and slots are looked after.

Whoever waits for the calls there learns that this machine, its database or its scheduler is dead, which nobody in here could tell.
The URL is a secret: neither a message nor a check repeats it, or what an HTTP library says of it.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from ingestd import __version__
from ingestd.events import Bus, Notice
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.pool import Database
from ingestd.schedule.ping_settings import HeartbeatSettings
from ingestd.schedule.store import standing as store
from ingestd.service import LoopState, Poller

TIMEOUT_S = 10.0
# After a failure the next call comes sooner: one that gets lost is not yet a silence.
AGAIN_S = 10.0
# A node that has only just begun has a first pass of its scheduler to wait for.
FIRST_S = 1.0
OFF_S = 60.0
# A scheduler leaves word of itself every 20 s at the latest.
FRESH_S = 60.0
_WELL = 400


@dataclass(frozen=True, slots=True)
class PingState:
    """How it goes.

    Args:
        problem: why the last call was not made or did not arrive; None: it did, or there was none yet.
        since: monotonic seconds since when.
        last_success: monotonic seconds of the last call that arrived; None: none has.
    """

    problem: str | None = None
    since: float = 0.0
    last_success: float | None = None


class Ping(Poller):
    """Calls the URL of `[heartbeat]`, if there is one.

    Args:
        db: asked before each call.
        bus: told when calls begin to fail and when they arrive again.
        settings: the configuration in force, asked at each call.
        scheduler: the state of this node's scheduler; None: it has no such duty.
    """

    def __init__(self, db: Database, bus: Bus, settings: Callable[[], HeartbeatSettings], scheduler: LoopState | None = None) -> None:
        super().__init__("ping", self.poll, bus)
        self.known = PingState()
        self._db = db
        self._settings = settings
        self._scheduler = scheduler
        self._made_at = time.monotonic()
        self._called_at: float | None = None
        self._called: HeartbeatSettings | None = None

    @property
    def on(self) -> bool:
        """Whether there is a URL to call."""
        return bool(self._settings().url.get_secret_value())

    async def poll(self) -> float:
        """One call, unless it is too early for one or a silence is what is true."""
        settings = self._settings()
        if not settings.url.get_secret_value():
            self.known, self._called = PingState(), None
            return OFF_S
        if settings != self._called:
            self.known, self._called, self._called_at = PingState(), settings, None
        every_s = settings.every.total_seconds()
        rest_s = min(every_s, AGAIN_S) if self.known.problem else every_s
        if self._called_at is not None and (early_s := self._called_at + rest_s - time.monotonic()) > 0:
            return early_s
        if self._called_at is None and self._begins:
            return FIRST_S
        self._called_at = time.monotonic()
        problem = await self._withheld() or await self._call(settings.url.get_secret_value())
        self._note(problem)
        return min(every_s, AGAIN_S) if problem else every_s

    @property
    def _begins(self) -> bool:
        """Whether this node's scheduler is at its first pass; how long ago anybody looked after slots says nothing yet."""
        at_first = self._scheduler is not None and not self._scheduler.last_tick and not self._scheduler.restarts
        return at_first and time.monotonic() - self._made_at < FRESH_S

    async def _withheld(self) -> str | None:
        """Why no call may be made: it would tell of a life that is not there."""
        if self._scheduler is not None and self._scheduler.last_tick and time.monotonic() - self._scheduler.last_tick > FRESH_S:
            return "withheld: this node's scheduler stands still"
        try:
            async with asyncio.timeout(TIMEOUT_S), self._db.services() as conn:
                age_s = await store.pulse_age(conn)
        except OUTAGE:
            return "withheld: the database does not answer"
        if age_s is None or age_s > FRESH_S:
            return "withheld: no node looks after slots" + (f" since {age_s:.0f} s" if age_s is not None else "")
        return None

    async def _call(self, url: str) -> str | None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        headers = {"User-Agent": f"ingestd/{__version__}"}
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True) as session,
                session.get(url) as answer,
            ):
                return None if answer.status < _WELL else f"the answer was {answer.status}"
        except Exception as error:  # noqa: BLE001 - whatever a URL leads to, the loop goes on; and errors name it, so they are not passed on
            return _in_words(error)

    def _note(self, problem: str | None) -> None:
        before, now = self.known, time.monotonic()
        if problem is None:
            self.known = PingState(last_success=now)
            if before.problem is not None:
                self._bus.emit(Notice(f"the heartbeat ping arrives again, after {now - before.since:.0f} s", "info"))
            return
        self.known = PingState(problem, before.since if before.problem is not None else now, before.last_success)
        if before.problem is None:
            self._bus.emit(Notice(f"the heartbeat ping fails: {problem}", "error"))


def _in_words(error: Exception) -> str:
    """What went wrong, without a word of where it was tried."""
    match error:
        case TimeoutError():
            return f"no answer within {TIMEOUT_S:.0f} s"
        case ssl.SSLError() | aiohttp.ClientSSLError():
            return "its certificate is not valid here, or TLS failed"
        case aiohttp.ClientConnectorDNSError():
            return "its host has no address"
        case aiohttp.ClientProxyConnectionError():
            return "the proxy could not be reached"
        case aiohttp.ClientConnectorError(os_error=OSError(errno=int(number))) | OSError(errno=int(number)):
            return f"could not connect: {os.strerror(number)}"
        case aiohttp.TooManyRedirects():
            return "too many redirects"
    return f"no proper answer ({type(error).__name__})"
