"""Starts loops as named tasks and never lets one end unseen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from ingestd.events import Bus, LoopFailed
from ingestd.service import LoopState, Poller, backoff_s

STOP_TIMEOUT_S = 5.0
# A loop that looks once a second is in trouble after so long.
FAILING_S, HANGING_S = 5.0, 10.0


class Supervisor:
    """All loops of one node.

    Args:
        bus: where the end of a loop is told.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._loops: dict[str, Poller] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, loop: Poller) -> None:
        """Run a loop until it is stopped."""
        self._loops[loop.name] = loop
        self._tasks[loop.name] = asyncio.create_task(self._keep_running(loop), name=loop.name)

    async def stop(self, *names: str, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Let the named loops end after the pass under way; cancel what does not end in time."""
        tasks = [self._tasks.pop(name) for name in names if name in self._tasks]
        for name in names:
            if name in self._loops:
                self._loops.pop(name).stop()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def stop_all(self) -> None:
        """Stop every loop that still runs."""
        await self.stop(*list(self._tasks))

    def wake_all(self) -> None:
        """Cut every wait short, those after failures too: what they waited for may be back."""
        for loop in self._loops.values():
            loop.try_again()

    def states(self) -> Mapping[str, LoopState]:
        """What is known of each loop."""
        return {name: loop.state for name, loop in self._loops.items()}

    def complaint(self, name: str) -> str:
        """Since when a loop has not got through a pass, and why, in words; empty while it does, or does not run here."""
        state = self._loops[name].state if name in self._loops else LoopState()
        stuck_s = time.monotonic() - state.last_tick
        if not state.last_tick or stuck_s < (FAILING_S if state.failures else HANGING_S):
            return ""
        return f"the {name} has not got through for {stuck_s:.0f} s: {state.error or 'Postgres does not answer it'}"

    async def _keep_running(self, loop: Poller) -> None:
        failures = 0
        while True:
            try:
                await loop.run()
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - a Poller lets nothing out; if it does, that must not be silent
                failures += 1
                loop.state.restarts += 1
                delay = backoff_s(failures)
                self._bus.emit(LoopFailed(loop.name, f"the loop itself ended: {error!r}", delay))
                await asyncio.sleep(delay)
            else:
                return
