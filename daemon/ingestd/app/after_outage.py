"""What a node does when its database is back: no connection from before is trusted, and no loop waits any longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ingestd.app.rooms import Rooms
from ingestd.events import DatabaseBack, Event, Notice
from ingestd.postgres.outage import OUTAGE, reason


class AfterOutage:
    """A listener of the bus.

    Args:
        rooms: whose connections are renewed.
        wake_all: has every loop look at once.
    """

    def __init__(self, rooms: Rooms, wake_all: Callable[[], None]) -> None:
        self._rooms = rooms
        self._wake_all = wake_all
        # A task that nobody holds may be collected before it is done.
        self._renewal: asyncio.Task[None] | None = None

    def __call__(self, event: Event) -> None:
        """Take note of what happens."""
        if isinstance(event, DatabaseBack):
            self._renewal = asyncio.create_task(self._renew(), name="renew connections")

    async def _renew(self) -> None:
        self._rooms.listener.renew()
        try:
            await self._rooms.db.renew()
        except OUTAGE as error:
            # Gone again, or full: what was left behind is ended after its next return, or by its own time limits.
            self._rooms.bus.emit(Notice(f"sessions from before the outage could not be looked for: {reason(error)}"))
        finally:
            # Those that failed while it was away wait for this word.
            self._wake_all()
