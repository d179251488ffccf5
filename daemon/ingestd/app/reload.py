"""SIGHUP: the configuration is read again and applied whole, or the old one stays and the reason is told."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from ingestd import logging
from ingestd.app import configuration
from ingestd.app.control import Control
from ingestd.app.rooms import InForce, Rooms
from ingestd.app.settings import Settings
from ingestd.errors import ConfigurationError
from ingestd.events import ConfigurationApplied, ConfigurationRefused
from ingestd.postgres.outage import OUTAGE, reason
from ingestd.redaction import secrets_in

# A file on a network's disk may take for ever; a transaction may wait for somebody's lock.
READ_S = 30.0
APPLY_S = 120.0


class Reloader:
    """Puts another configuration in force while the node runs.

    Args:
        in_force: the configuration to replace.
        rooms: those that have to be told; others ask `in_force` at each use.
        read: reads the configuration again; None: there is nothing to read.
        announce: called before it is read; how it ended is told on the bus.
        wake: has every loop look at once.
    """

    def __init__(
        self,
        in_force: InForce,
        rooms: Rooms,
        read: Callable[[], Settings] | None,
        announce: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self._in_force = in_force
        self._rooms = rooms
        self._read = read
        self._announce = announce
        self._wake = wake

    async def obey(self, control: Control) -> None:
        """Reload whenever it is asked for, until somebody asks to drain."""
        while not control.drain.is_set():
            await _first_of(drain=control.drain.wait(), reload=control.reload.wait())
            if control.reload.is_set() and not control.drain.is_set():
                control.reload.clear()
                # It may be waiting for a lock. Who asks to stop meanwhile need not wait for it: the next start reads anew.
                await _first_of(drain=control.drain.wait(), reloading=self.reload())

    async def reload(self) -> None:
        """Read the configuration again; apply it whole, or keep the old one and say why."""
        if self._read is None:
            return
        bus = self._rooms.bus
        self._announce()
        try:
            found = await self._put_in_force(await _aside(self._read))
        except ConfigurationError as error:
            bus.emit(ConfigurationRefused(tuple(error.problems)))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a new configuration, the daemon goes on with the old one
            bus.emit(ConfigurationRefused((str(error) or type(error).__name__,)))
        else:
            bus.emit(ConfigurationApplied(found.changed, found.pending))

    async def _put_in_force(self, new: Settings) -> configuration.Difference:
        # Before anything is said of it: a refusal may name what stands in it.
        logging.conceal(secrets_in(new))
        try:
            async with asyncio.timeout(APPLY_S) as patience:
                return await self._apply(new)
        except TimeoutError:
            if not patience.expired():
                raise
            raise ConfigurationError(
                [f"it is valid, but could not be written within {APPLY_S:.0f} s: somebody holds a lock in Postgres. Reload again"]
            ) from None
        except OUTAGE as error:
            raise ConfigurationError([f"it is valid, but {reason(error)}. Reload again when Postgres is back"]) from None

    async def _apply(self, new: Settings) -> configuration.Difference:
        old, rooms = self._in_force.settings, self._rooms
        found = configuration.difference(old, new)
        merged = configuration.merge(old, new)
        async with rooms.db.services() as conn:
            await configuration.apply(conn, merged, rooms.registry.specs(), rooms.bus)
        # Committed: from here on nothing may refuse it any more.
        self._in_force.replace(merged)
        rooms.worker.claimer.resize(merged.slots())
        if new.logs.level != old.logs.level:
            # What -v or -q asked for stays, until somebody asks for something else.
            logging.set_level(merged.logs.level)
        rooms.renew_admin(merged.admin)
        self._wake()
        return found


async def _first_of(**works: Coroutine[Any, Any, object]) -> None:
    """Until one of them is done; the others are cancelled."""
    tasks = [asyncio.create_task(work, name=name) for name, work in works.items()]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _aside(read: Callable[[], Settings]) -> Settings:
    """Read on a thread, which nobody waits for at the end: what cannot be read must not stop the loop."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Settings] = loop.create_future()
    context = contextvars.copy_context()

    def settle(found: Settings | None, error: Exception | None) -> None:
        if answer.done():
            return
        if found is not None:
            answer.set_result(found)
        else:
            answer.set_exception(error or AssertionError("neither read nor refused"))

    def work() -> None:
        found, error = None, None
        try:
            found = context.run(read)
        except Exception as raised:  # noqa: BLE001 - handed over, whatever it is
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: the daemon has ended meanwhile
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=work, name="configuration", daemon=True).start()
    try:
        async with asyncio.timeout(READ_S):
            return await answer
    except TimeoutError:
        if answer.done() and not answer.cancelled():
            raise
        raise ConfigurationError([f"it could not be read within {READ_S:.0f} s"]) from None
