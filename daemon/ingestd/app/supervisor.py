"""Starts loops as named tasks and never lets one end unseen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from ingestd.events import Bus, LoopFailed
from ingestd.service import LoopState, Service, backoff_s

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
        self._services: dict[str, Service] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, service: Service) -> None:
        """Run a loop until it is stopped."""
        self._services[service.name] = service
        self._tasks[service.name] = asyncio.create_task(self._keep_running(service), name=service.name)

    async def stop(self, *names: str, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Let the named loops end after the pass under way; cancel what does not end in time."""
        tasks = [self._tasks.pop(name) for name in names if name in self._tasks]
        for name in names:
            if name in self._services:
                self._services.pop(name).stop()
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
        """Cut every wait short: what they waited for may be back."""
        for service in self._services.values():
            service.wake()

    def wake(self, name: str) -> None:
        """Cut one loop's wait short, if it runs here."""
        if name in self._services:
            self._services[name].wake()

    def states(self) -> Mapping[str, LoopState]:
        """What is known of each loop."""
        return {name: service.state for name, service in self._services.items()}

    def complaint(self, name: str) -> str:
        """Since when a loop has not got through a pass, and why, in words; empty while it does, or does not run here."""
        state = self._services[name].state if name in self._services else LoopState()
        stuck_s = time.monotonic() - state.last_tick
        if not state.last_tick or stuck_s < (FAILING_S if state.failures else HANGING_S):
            return ""
        return f"the {name} has not got through for {stuck_s:.0f} s: {state.error or 'Postgres does not answer it'}"

    async def _keep_running(self, service: Service) -> None:
        failures = 0
        while True:
            try:
                await service.run()
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - a Poller lets nothing out; if it does, that must not be silent
                failures += 1
                service.state.restarts += 1
                delay = backoff_s(failures)
                self._bus.emit(LoopFailed(service.name, f"the loop itself ended: {error!r}", delay))
                await asyncio.sleep(delay)
            else:
                return
