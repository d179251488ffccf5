"""SIGHUP: the configuration is read again and applied whole, or the old one stays and the reason is told."""

from __future__ import annotations

from collections.abc import Callable

from ingestd import logging
from ingestd.app import configuration
from ingestd.app.rooms import InForce, Rooms
from ingestd.app.settings import Settings
from ingestd.errors import ConfigurationError
from ingestd.events import ConfigurationApplied, ConfigurationRefused


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

    async def reload(self) -> None:
        """Read the configuration again; apply it whole, or keep the old one and say why."""
        if self._read is None:
            return
        bus = self._rooms.bus
        self._announce()
        try:
            found = await self._apply(self._read())
        except ConfigurationError as error:
            bus.emit(ConfigurationRefused(tuple(error.problems)))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a new configuration, the daemon goes on with the old one
            bus.emit(ConfigurationRefused((str(error) or type(error).__name__,)))
        else:
            bus.emit(ConfigurationApplied(found.changed, found.pending))

    async def _apply(self, new: Settings) -> configuration.Difference:
        old, rooms = self._in_force.settings, self._rooms
        found = configuration.difference(old, new)
        merged = configuration.merge(old, new)
        async with rooms.db.services() as conn:
            await configuration.apply(conn, merged, rooms.registry.specs(), rooms.bus)
        # Committed: from here on nothing may refuse it any more.
        self._in_force.replace(merged)
        rooms.worker.claimer.resize(merged.slots())
        logging.set_level(merged.logs.level)
        rooms.renew_admin(merged.admin)
        self._wake()
        return found
