"""One loop owns sleep, wake, stop and error backoff; a duty is only `async def poll() -> delay`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from ingestd.events import Bus, LoopFailed
from ingestd.logging import without_secrets

BACKOFF_FIRST_S = 0.2
BACKOFF_CAP_S = 15.0
# Failures in a row; with the backoff between them, half a minute.
TELL_AGAIN_FROM = 8


@dataclass
class LoopState:
    """What is known about a loop from outside.

    Args:
        last_tick: monotonic seconds of the last pass that ended without error; 0 before the first.
        failures: passes that raised since the last good one.
        restarts: passes that raised, ever.
        error: the last error, or None once a pass went well.
        expected_s: the longest the loop may sleep between passes, in seconds.
    """

    last_tick: float = 0.0
    failures: int = 0
    restarts: int = 0
    error: str | None = None
    expected_s: float = 0.0


class Poller:
    """Runs `poll` again and again until stopped.

    `poll` does one pass and returns the seconds until the next; `wake()` cuts the wait short. An error is counted, reported
    and retried with backoff and jitter: a loop never dies in silence. No `wake()` cuts a backoff short, or a loop that wakes
    itself, or that many wake, would do without a pause what fails. `try_again()` does, and the backoff begins anew: after a
    long outage the first pass may still meet with what is left of it.

    Args:
        name: names the task, the log lines and the loop's fact.
        poll: one pass.
        bus: where failures are told.
    """

    def __init__(self, name: str, poll: Callable[[], Awaitable[float]], bus: Bus) -> None:
        self.name = name
        self._state = LoopState()
        self._poll = poll
        self._bus = bus
        self._wake = asyncio.Event()
        self._mended = asyncio.Event()
        # Failures since the last good pass, or since it was told that things may be mended.
        self._failed_since = 0
        self._stopping = False

    @property
    def state(self) -> LoopState:
        """What is known about the loop from outside."""
        return self._state

    def wake(self) -> None:
        """Start the next pass now, or right after the one under way; after a failure, once its backoff is over."""
        self._wake.set()

    def try_again(self) -> None:
        """Start the next pass now, after a failure too: what it failed of may have been mended."""
        self._failed_since = 0
        self._mended.set()
        self._wake.set()

    def stop(self) -> None:
        """End after the pass under way; idempotent."""
        self._stopping = True
        self.try_again()

    async def run(self) -> None:
        """Poll until `stop` is called."""
        while not self._stopping:
            # Cleared before the pass: a wake-up that comes during it starts another one.
            self._wake.clear()
            self._mended.clear()
            delay = await self._one_pass()
            self._state.expected_s = max(self._state.expected_s, delay)
            cut = self._mended if self._state.failures else self._wake
            if delay <= 0 or cut.is_set():
                # There is more to do: everybody else has one turn, no timer is made.
                await asyncio.sleep(0)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await cut.wait()

    async def _one_pass(self) -> float:
        try:
            delay = await self._poll()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the one place where a loop's errors end
            known, told = self._state.error, without_secrets(f"{type(error).__name__}: {error}".removesuffix(": "))
            self._state.failures += 1
            self._state.restarts += 1
            self._state.error = told
            self._failed_since += 1
            delay = backoff_s(self._failed_since)
            self._bus.emit(LoopFailed(self.name, told, delay, repeated=told == known and not worth_repeating(self._state.failures)))
            return delay
        self._state.last_tick = time.monotonic()
        self._state.failures = self._failed_since = 0
        self._state.error = None
        return delay


def worth_repeating(failures: int) -> bool:
    """Whether a loop that goes on failing for the same reason is told of once more: seldom, and more and more so.

    A node has two dozen loops, and all of them fail while Postgres is away.
    """
    return failures >= TELL_AGAIN_FROM and failures.bit_count() == 1


def backoff_s(failures: int) -> float:
    """Seconds to wait after the given number of failures in a row: doubling, capped, with full jitter above half."""
    ceiling = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2 ** min(failures - 1, 16))
    return float(ceiling * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
