"""The enqueueing side of one system: a process that takes commands as lines of JSON and answers with one line each.

Standard library only: the peers' own interpreters import this. Each system says how it connects and enqueues (class
`Side`); the loops that are timed are the same for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
import traceback
from typing import Any

BATCH = 1000


class Side:
    """How one system enqueues; `url` is of its database or Redis."""

    async def connect(self, url: str, clients: int) -> None:
        """Open what enqueueing needs, for that many concurrent clients."""
        raise NotImplementedError

    async def setup(self) -> None:
        """Make tables and the like."""

    async def many(self, count: int) -> None:
        """Enqueue so many no-op jobs with the best call there is for that; durable when it returns."""
        raise NotImplementedError

    async def one(self) -> None:
        """Enqueue one no-op job; durable when it returns."""
        raise NotImplementedError

    async def ping(self, sent_ns: int, urgent: bool) -> None:
        """Enqueue one job that carries a moment; urgent: before everything else."""
        raise NotImplementedError

    async def templates(self) -> None:
        """Enqueue one filler of low priority, and one of normal priority that is due in a day."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close it."""


class Driver:
    """Runs the commands."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._connected: tuple[str, int] | None = None

    async def run(self) -> None:
        """Until standard input ends."""
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            try:
                answer = await self._obey(command)
            except Exception as error:  # noqa: BLE001 - whatever a peer raises is told to who asked
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)
        await self._close()

    async def _obey(self, command: dict[str, Any]) -> dict[str, Any]:
        verb = command.pop("do")
        if verb == "close":
            await self._close()
            return {}
        await self._connect(command.pop("url"), command.get("clients", 1))
        gc.collect()
        answer: dict[str, Any] = await getattr(self, f"_{verb}")(**command)
        return answer

    async def _connect(self, url: str, clients: int) -> None:
        if self._connected != (url, clients):
            await self._close()
            await self._side.connect(url, clients)
            self._connected = (url, clients)

    async def _close(self) -> None:
        if self._connected:
            self._connected = None
            await self._side.close()

    async def _setup(self) -> dict[str, Any]:
        await self._side.setup()
        return {}

    async def _templates(self) -> dict[str, Any]:
        await self._side.templates()
        return {}

    async def _many(self, count: int) -> dict[str, Any]:
        began = time.monotonic()
        for start in range(0, count, BATCH):
            await self._side.many(min(BATCH, count - start))
        return {"seconds": time.monotonic() - began}

    async def _single(self, clients: int, seconds: float) -> dict[str, Any]:
        """Clients that each enqueue one job after the other, for so long; how long each call took, in ns."""
        await asyncio.gather(*(self._side.one() for _ in range(clients)))
        took: list[int] = []
        began = time.monotonic_ns()
        until = began + int(seconds * 1e9)

        async def client() -> None:
            now = time.monotonic_ns()
            while now < until:
                await self._side.one()
                later = time.monotonic_ns()
                took.append(later - now)
                now = later

        await asyncio.gather(*(client() for _ in range(clients)))
        return {"seconds": (time.monotonic_ns() - began) / 1e9, "count": len(took), "took": sorted(took)}

    async def _pings(self, count: int, gap_s: float, urgent: bool = False) -> dict[str, Any]:
        for number in range(count):
            # An odd rhythm, so that nobody's poll interval falls in step with it.
            await asyncio.sleep(gap_s * (0.75 + 0.5 * ((number * 7) % 11) / 11))
            await self._side.ping(time.monotonic_ns(), urgent)
        return {}


def serve(side: Side) -> None:
    """Be the driver of a system."""
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(Driver(side).run())
