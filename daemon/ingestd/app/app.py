"""One node, from settings to READY and back: the order in which things start, and the order in which they end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from ingestd import __version__
from ingestd.access.roles import Actor
from ingestd.admin.server import AdminServer
from ingestd.admin.state import AdminState, NodeInfo
from ingestd.app import configuration
from ingestd.app.after_outage import AfterOutage
from ingestd.app.control import Control
from ingestd.app.database import Location, database, locate
from ingestd.app.once import Once
from ingestd.app.reload import Reloader
from ingestd.app.rooms import InForce, Rooms
from ingestd.app.service_status import START_EVERY_S, ServiceStatus
from ingestd.app.settings import Settings
from ingestd.app.state_folder import StateFolder
from ingestd.app.successes import successes
from ingestd.app.supervisor import Supervisor
from ingestd.app.upkeep import upkeep
from ingestd.cause import NODE
from ingestd.errors import NotFound
from ingestd.events import (
    Bus,
    NodeDraining,
    NodeStarted,
    NodeStopped,
    Notice,
    PostgresStarted,
)
from ingestd.files.spool import Store
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.run_actions import start_run
from ingestd.jobs.store.partitions import make_partitions
from ingestd.jobs.store.queues import publish_kinds
from ingestd.notify import Notifier
from ingestd.postgres.migrate import migrate
from ingestd.postgres.pool import Database
from ingestd.postgres.session import connect
from ingestd.schedule.store.firing import make_partitions as make_slot_partitions
from ingestd.service import Poller
from ingestd.settings import did_you_mean
from ingestd.work.node import NodeIdentity, node_name

UPKEEP_S = 60.0
POSTGRES_EVERY_S = 1.0


@dataclass
class Options:
    """How to run one node, besides its settings.

    Args:
        reload: reads the configuration again; None: SIGHUP has nothing to read.
        folders: searched for the user's handler modules, in this order.
        handlers: further kinds of jobs.
        report: told in a few words what takes time during the start.
        on_ready: called with the node once it is ready.
        notifier: the service manager that started this process.
        once: do what is due now, and end.
    """

    reload: Callable[[], Settings] | None = None
    folders: Sequence[Path] = field(default_factory=lambda: [Path.cwd()])
    handlers: Sequence[HandlerSpec] = ()
    report: Callable[[str], None] = lambda _: None
    on_ready: Callable[[App], None] = lambda _: None
    notifier: Notifier = field(default_factory=Notifier)
    once: bool = False


class App:
    """One running node.

    Args:
        settings: its configuration.
        control: what is asked of it from outside.
        bus: where events are told.
        options: see `Options`.
    """

    def __init__(self, settings: Settings, control: Control, bus: Bus, options: Options | None = None) -> None:
        self.bus = bus
        self.rooms: Rooms | None = None
        self.admin: AdminServer | None = None
        self._in_force = InForce(settings)
        self._control = control
        self._options = options or Options()
        self._supervisor = Supervisor(bus)
        self._service = ServiceStatus(self._options.notifier, bus)
        self._started_at = datetime.now(UTC)
        self._state = "starting"
        self._folder = StateFolder(settings.daemon.state_dir)

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        return self._in_force.settings

    @property
    def db(self) -> Database:
        """The node's pools."""
        assert self.rooms is not None, "the node has not started"
        return self.rooms.db

    async def run(self) -> None:
        """Start, serve until `control.drain`, drain, stop.

        Raises:
            IngestdError: the start failed; whatever was started was stopped again.
        """
        NODE.set(node_name())
        async with AsyncExitStack() as stack:
            rooms = await self._unless_drained(self._start(stack))
            if rooms is None:
                return
            self._tell_ready(rooms)
            if self._options.once:
                await Once(rooms, self.settings.daemon.duties).work_off(self._control.drain)
            else:
                await self._serve(rooms)
            await self._drain(rooms)

    async def _unless_drained(self, start: Coroutine[Any, Any, Rooms]) -> Rooms | None:
        """Start, or give it up when somebody asks to stop before it is done: it may be waiting for a database."""
        starting = asyncio.create_task(start, name="start")
        stopping = asyncio.create_task(self._control.drain.wait(), name="stop")
        try:
            done: set[asyncio.Task[Any]] = set()
            while not done:
                self._service.starting()
                done, _ = await asyncio.wait({starting, stopping}, timeout=START_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            return starting.result() if starting.done() else None
        finally:
            if not starting.done():
                self._service.given_up()
            stopping.cancel()
            starting.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)

    async def _start(self, stack: AsyncExitStack) -> Rooms:
        self._folder.make()
        if self._options.once:
            stack.callback(self._folder.only_once().drop)
        location = await stack.enter_async_context(locate(self.settings, self._report))
        return await self._build(stack, location)

    async def _build(self, stack: AsyncExitStack, location: Location) -> Rooms:
        """Each thing is taken down again by the line after the one that made it."""
        settings = self.settings
        store = Store(settings.daemon.state_dir)
        store.open()
        await self._migrate(location)

        node = NodeIdentity(store.id)
        db = database(settings, location, node.application_name)
        await db.open()
        stack.push_async_callback(db.close)
        self.rooms = rooms = Rooms(
            self._in_force,
            db,
            store,
            node,
            self.bus,
            self._options.folders,
            list(self._options.handlers),
            self._supervisor.states,
            self._drain_asked,
            self._options.notifier.feed,
        )
        self._service.count(lambda: rooms.worker.running)
        stack.push_async_callback(rooms.listener.close)
        configuration.check_address(settings)
        async with db.services() as conn:
            await configuration.apply(conn, settings, rooms.registry.specs(), self.bus)
            await publish_kinds(conn, rooms.registry.specs(), node.id)

        rooms.worker.notes = rooms.presence.enter(node.id)
        stack.callback(self._leave, rooms)
        await rooms.heartbeat.start()
        stack.push_async_callback(rooms.heartbeat.stop)
        # Above whatever loops use: one that looks once more on what is closed already reports a failure that is none.
        stack.push_async_callback(self._supervisor.stop_all)
        await rooms.rescuer.poll()
        stack.callback(self.bus.subscribe(AfterOutage(rooms, self._supervisor.wake_all)))

        if location.embedded is not None:
            self._supervisor.start(Poller("postgres", self._keep_postgres(location), self.bus))
        await self._start_duties(stack, rooms)
        return rooms

    async def _migrate(self, location: Location) -> None:
        conn = await connect(location.direct_dsn, application_name="ingestd:migrate", pooled=location.pooled)
        try:
            for migration in await migrate(conn):
                self._report(f"applied migration {migration.version:04d}_{migration.name}")
            await make_partitions(conn)
            await make_slot_partitions(conn)
        finally:
            await conn.close()

    def _report(self, words: str) -> None:
        self._options.report(words)
        self._service.starting(words)

    def _leave(self, rooms: Rooms) -> None:
        # Where Postgres has not heard that this node stopped, the lock file stays: whoever finds it unlocked rescues at once.
        if rooms.heartbeat.said_goodbye:
            rooms.presence.leave(rooms.node.id)

    async def _start_duties(self, stack: AsyncExitStack, rooms: Rooms) -> None:
        duties = self.settings.daemon.duties
        start = self._supervisor.start
        if not rooms.db.sessionless:
            start(Poller("listener", rooms.listener.poll, self.bus))
        start(Poller("rescuer", rooms.rescuer.poll, self.bus))
        start(Poller("upkeep", self._upkeep, self.bus))
        start(Poller("horizon", rooms.horizon.poll, self.bus))
        if self._service.needed:
            start(Poller("service status", self._service.poll, self.bus))
        start(rooms.promoter)
        start(rooms.feed.poller)
        if "work" in duties:
            if not rooms.db.sessionless:
                start(Poller("care", rooms.care.poll, self.bus))
            await rooms.worker.open()
            await rooms.loaders.start()
            stack.push_async_callback(rooms.loaders.close)
            stack.push_async_callback(self._hand_back, rooms)
            for service in (rooms.worker.acker.poller, rooms.worker.reporter, rooms.worker.claimer.poller, rooms.lines):
                start(service)
            start(Poller("watchdog", rooms.watchdog.poll, self.bus))
        if not self._options.once:
            self._start_watches(rooms)
        if "serve" in duties:
            start(rooms.token_reader)
            self.admin = AdminServer(self._admin_state(rooms), self.settings.admin)
            start(Poller("denials", self.admin.write_denials, self.bus))
            rooms.admin_url = await self.admin.start()
            rooms.renew_admin = self.admin.renew
            stack.push_async_callback(self._stop_admin)
            self._tell_port(self.admin.port)
            rooms.heartbeat.register_again()

    def _tell_port(self, port: int) -> None:
        try:
            self._folder.tell_port(port)
        except OSError as error:
            # A full disk keeps from less than a node that does not start.
            self.bus.emit(Notice(f"commands here will not find the admin server, for its port cannot be written down: {error.strerror}"))

    def _start_watches(self, rooms: Rooms) -> None:
        """What looks by itself for something to do, again and again."""
        start = self._supervisor.start
        start(rooms.slot_watch)
        start(rooms.ping)
        start(rooms.autoscaler.poller)
        if "work" in self.settings.daemon.duties:
            start(rooms.rollups)
            start(rooms.watch.poller())
        if "schedule" in self.settings.daemon.duties:
            start(rooms.scheduler)

    def _tell_ready(self, rooms: Rooms) -> None:
        self._state = "running"
        self.bus.emit(NodeStarted(rooms.node.name, __version__, rooms.admin_url))
        self._options.on_ready(self)

    def _drain_asked(self, asker: str) -> None:
        self.bus.emit(Notice(f"{asker} asked this node to drain: it finishes its jobs and ends", level="info"))
        self._control.drain.set()

    async def _serve(self, rooms: Rooms) -> None:
        """Obey reloads until somebody asks to drain."""
        reloader = Reloader(self._in_force, rooms, self._options.reload, self._service.reloading, self._supervisor.wake_all)
        await reloader.obey(self._control)

    async def _drain(self, rooms: Rooms) -> None:
        """Ready goes red, nothing new starts, jobs finish or are handed back; then the stack takes the rest down."""
        self._state = "draining"
        rooms.heartbeat.state = "draining"
        self.bus.emit(NodeDraining(rooms.worker.running, self.settings.drain_timeout_s))
        rooms.worker.claimer.drain()
        rooms.watch.stop()
        await self._supervisor.stop("arrivals", "slots", "rollups")
        handed_back = await rooms.worker.drain(self.settings.drain_timeout_s, self._control.force)
        self._state = "stopped"
        self.bus.emit(NodeStopped(handed_back))
        await rooms.feed.close()

    async def _hand_back(self, rooms: Rooms) -> None:
        """A start that failed may have claimed jobs already: others need not wait until this node counts as dead."""
        if self._state != "stopped":
            force = asyncio.Event()
            force.set()
            # A claim under way is taken in first, so that it is handed back too.
            await self._supervisor.stop(rooms.worker.claimer.poller.name)
            await rooms.worker.drain(0, force)

    async def _stop_admin(self) -> None:
        if self.admin is not None:
            await self.admin.stop()
        self._folder.forget_port()

    def _keep_postgres(self, location: Location) -> Callable[[], Awaitable[float]]:
        async def poll() -> float:
            assert location.embedded is not None
            if await location.embedded.ensure_running():
                self.bus.emit(PostgresStarted("was gone and has been started again", recovered=True))
                self._supervisor.wake_all()
            return POSTGRES_EVERY_S

        return poll

    async def _upkeep(self) -> float:
        """Partitions ahead of time, statistics folded, unique keys let go of; on whatever node comes first."""
        assert self.rooms is not None
        async with self.rooms.db.services() as conn:
            await upkeep(conn)
        return UPKEEP_S

    def ready(self) -> tuple[bool, str]:
        """Whether the node takes work, and if not, why."""
        if self._state != "running":
            return False, self._state
        assert self.rooms is not None
        complaint = self.rooms.heartbeat.complaint or self._supervisor.complaint("claimer")
        return not complaint, complaint or "ready"

    def _admin_state(self, rooms: Rooms) -> AdminState:
        settings = self.settings
        return AdminState(
            db=rooms.db,
            facts=rooms.facts,
            bus=self.bus,
            node=NodeInfo(rooms.node.id, rooms.node.name, __version__, self._started_at, tuple(settings.daemon.duties), rooms.node.store),
            registry=rooms.registry,
            environment=settings.daemon.environment,
            state_dir=settings.daemon.state_dir,
            loops=self._supervisor.states,
            ready=self.ready,
            started=lambda: self._state != "starting",
            imports=lambda: self.settings.imports,
            workflows=lambda: self._in_force.workflows,
            start_workflow=self.start_workflow,
            definitions=rooms.definitions,
            successes=successes,
            failures_in_a_row=lambda: self.settings.daemon.failures_in_a_row,
            book=rooms.tokens,
        )

    async def start_workflow(self, conn: asyncpg.Connection, actor: Actor, name: str) -> int:
        """Start a run of a declared workflow, with its audit row.

        Raises:
            NotFound: there is no such workflow.
            Conflict: an earlier run of it is open, and it must be the only one.
        """
        declared = self._in_force.workflows.get(name)
        if declared is None:
            raise NotFound(f'there is no workflow "{name}"{did_you_mean(name, self._in_force.workflows)}')
        return await start_run(conn, actor, declared)
