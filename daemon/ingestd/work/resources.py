"""Keeps what modules' handlers share, from before their first job until after their last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack

from ingestd.errors import ConfigurationError
from ingestd.events import Bus, Notice
from ingestd.jobs.lifespan import Lifespan, Resources

CLOSE_TIMEOUT_S = 10.0


class ResourceKeeper:
    """Enters each `@lifespan` once and leaves it at the end, in one task: many things insist on that.

    Args:
        bus: told when closing goes wrong.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._kept: dict[Lifespan, _Kept] = {}

    async def open(self, lifespans: Iterable[Lifespan]) -> None:
        """Make all resources.

        Raises:
            ConfigurationError: some could not be made; says which and why.
        """
        problems = []
        for lifespan in dict.fromkeys(lifespans):
            try:
                await self.of(lifespan)
            except Exception as error:  # noqa: BLE001 - a user's resources may fail in any way
                problems.append(f"resources {lifespan.name}: {type(error).__name__}: {error}")
        if problems:
            raise ConfigurationError(problems)

    async def of(self, lifespan: Lifespan) -> Resources:
        """What a lifespan yielded; made now if it was not before."""
        kept = self._kept.get(lifespan)
        if kept is None:
            kept = self._kept[lifespan] = _Kept(lifespan)
        try:
            return await asyncio.shield(kept.made)
        except asyncio.CancelledError:
            raise
        except BaseException:
            # Another job may have better luck.
            self._kept.pop(lifespan, None)
            raise

    async def close(self) -> None:
        """Close everything, the last one made first."""
        while self._kept:
            lifespan, kept = self._kept.popitem()
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await kept.close()
            except Exception as error:  # noqa: BLE001 - what a user's code raises while it closes must not keep the others open
                self._bus.emit(Notice(f"resources {lifespan.name} did not close: {type(error).__name__}: {error}"))


class _Kept:
    """One lifespan that was entered, or is about to be."""

    def __init__(self, lifespan: Lifespan) -> None:
        self.made: asyncio.Future[Resources] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(self._keep(lifespan), name=f"resources {lifespan.name}")

    async def close(self) -> None:
        """Leave it."""
        self._leave.set()
        if not self.made.done():
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=not self.made.done())

    async def _keep(self, lifespan: Lifespan) -> None:
        async with AsyncExitStack() as stack:
            try:
                found = await stack.enter_async_context(lifespan.open())
                if not hasattr(found, "keys"):
                    raise TypeError(f"it yields {type(found).__name__}, not a mapping")
            except BaseException as error:  # noqa: BLE001 - told to whoever waits for it
                if not self.made.done():
                    self.made.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
                    self.made.exception()
                return
            self.made.set_result(found)
            await self._leave.wait()
