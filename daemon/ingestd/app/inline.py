"""A node for the length of one command: it loads a file where no daemon runs, with the same code and the same guarantees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from ingestd.app.database import Location, database
from ingestd.app.rooms import InForce, Rooms
from ingestd.app.settings import Settings
from ingestd.app.supervisor import Supervisor
from ingestd.events import Bus
from ingestd.files.spool import Store
from ingestd.imports.arrivals import Intake
from ingestd.jobs.store.queues import publish_kinds
from ingestd.logging import LogListener
from ingestd.service import Poller
from ingestd.work import store as node_store
from ingestd.work.node import NodeIdentity

QUEUES = ["imports"]
HAND_BACK_S = 5.0


class Workshop:
    """Rooms that are wired, and work on imports once asked to.

    Args:
        rooms: of a node with a fresh identity.
    """

    def __init__(self, rooms: Rooms, supervisor: Supervisor, stack: AsyncExitStack) -> None:
        self._rooms = rooms
        self._supervisor = supervisor
        self._stack = stack
        self._works = False

    @property
    def intake(self) -> Intake:
        """Takes files into the store that this state folder's nodes share."""
        return self._rooms.intake

    async def somebody_works(self) -> bool:
        """Whether a live node can reach the store and works on imports.

        A node that shares the store shares this machine, where death is exact: a fresh heartbeat of one that was killed a
        moment ago does not count.
        """
        rooms = self._rooms
        async with rooms.db.services() as conn:
            workers = await node_store.live_workers(conn, rooms.node.store, *QUEUES)
        return any(not rooms.presence.is_dead(node) for node in workers)

    async def work(self) -> None:
        """Become a node, once: whoever kills this command leaves jobs that others rescue."""
        if self._works:
            return
        self._works = True
        rooms = self._rooms
        rooms.presence.enter(rooms.node.id)
        self._stack.callback(rooms.presence.leave, rooms.node.id)
        await rooms.heartbeat.start()
        self._stack.push_async_callback(rooms.heartbeat.stop)
        async with rooms.db.services() as conn:
            await publish_kinds(conn, rooms.registry.specs(), rooms.node.id)
        # What an earlier command or daemon left behind when it was killed comes first.
        await rooms.rescuer.poll()
        await rooms.loaders.start()
        self._stack.push_async_callback(rooms.loaders.close)
        worker = rooms.worker
        for service in (
            Poller("rescuer", rooms.rescuer.poll, rooms.bus),
            rooms.promoter,
            worker.acker.poller,
            worker.reporter,
            worker.claimer.poller,
        ):
            self._supervisor.start(service)
        self._stack.push_async_callback(self._drain)

    async def _drain(self) -> None:
        await self._rooms.worker.drain(HAND_BACK_S, asyncio.Event())


@asynccontextmanager
async def workshop(settings: Settings, location: Location) -> AsyncIterator[Workshop]:
    """Wire the rooms for one command and take them down after it."""
    bus = Bus()
    bus.subscribe(LogListener())
    # Not the user's handlers: they run no imports, and cannot be imported from just any folder.
    daemon = settings.daemon.model_copy(update={"queues": QUEUES, "duties": ["work"], "handlers": []})
    store = Store(settings.daemon.state_dir)
    store.open()
    async with AsyncExitStack() as stack:
        node = NodeIdentity(store.id)
        in_force = InForce(settings.model_copy(update={"daemon": daemon}))
        db = database(in_force.settings, location, node.application_name)
        await db.open()
        stack.push_async_callback(db.close)
        supervisor = Supervisor(bus)
        stack.push_async_callback(supervisor.stop_all)
        rooms = Rooms(in_force, db, store, node, bus, [], [])
        yield Workshop(rooms, supervisor, stack)
