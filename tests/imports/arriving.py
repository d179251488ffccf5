"""What tests of arrivals share: an inbox, a watch on it, and ways to put files there."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from ingestd.access.roles import Actor
from ingestd.events import Bus, Event, Notice
from ingestd.files.spool import Store
from ingestd.imports.arrivals import Intake
from ingestd.imports.handlers import handlers
from ingestd.imports.loader import LoaderPool
from ingestd.imports.settings import ImportSettings
from ingestd.imports.watch import ArrivalWatch
from ingestd.jobs.promoter import Promoter
from ingestd.jobs.registry import Registry
from ingestd.jobs.store.queues import publish_kinds
from ingestd.postgres.pool import Database
from ingestd.service import Poller
from ingestd.work.node import NodeIdentity
from ingestd.work.worker import Worker
from tests.support import eventually

LOADS = """
select l.id, l.import, l.file_name, l.status, l.triggered_by, l.target, l.tags, j.id as job, j.kind, j.key, j.key_strict, j.store,
       j.args, j.parked, j.parent_id, q.name as queue, a.path
from ingestd.load l join ingestd.arrival a on a.id = l.arrival_id
left join ingestd.job j on j.id = l.job_id left join ingestd.queue q on q.id = j.queue_id order by l.id"""
OPERATOR = Actor("ana", "operator", "cli")
MINUTE_NS = 60 * 10**9


@dataclass
class Inbox:
    """A folder with imports that watch it."""

    db: Database
    root: Path
    imports: dict[str, ImportSettings] = field(default_factory=dict)
    bus: Bus = field(default_factory=Bus)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.root / "inbox"
        self.folder.mkdir()
        self.bus.subscribe(self.events.append)
        self.store = Store(self.root / "state")
        self.store.open()
        self.intake = Intake(self.db, self.store, self.bus)
        self.watch = self.new_watch()

    def new_watch(self) -> ArrivalWatch:
        """A watch that remembers nothing, as after a restart."""
        return ArrivalWatch(lambda: self.imports, self.intake, self.bus)

    def declare(self, name: str = "readings", **keys: Any) -> ImportSettings:
        """Declare an import of this folder that looks all the time and finds a file complete after 50 ms."""
        defaults = {
            "source": f"{self.folder}/*.csv",
            "table": "readings",
            "mode": "upsert",
            "key": ["id"],
            "poll": "100ms",
            "settle": "50ms",
        }
        self.imports[name] = ImportSettings.model_validate(defaults | keys)
        return self.imports[name]

    def put(self, name: str, text: str, *, minutes_ago: float = 1) -> Path:
        """Put a whole file into the folder, last written some time ago."""
        path = self.folder / name
        draft = self.root / "draft"
        draft.write_text(text)
        when = time.time_ns() - int(minutes_ago * MINUTE_NS)
        os.utime(draft, ns=(when, when))
        path.parent.mkdir(parents=True, exist_ok=True)
        return draft.rename(path)

    @asynccontextmanager
    async def working(self, *, watching: bool = False) -> AsyncIterator[None]:
        """Run the loads and imports of this inbox for as long as the block lasts.

        Args:
            watching: look at the folder all the time as well.
        """
        pool = LoaderPool(self.db.dsn, size=2, application_name="ingestd test", bus=self.bus)
        await pool.start()
        registry = Registry(handlers(lambda: self.imports, self.store, pool, self.watch))
        node = NodeIdentity(store=self.store.id)
        async with self.db.services() as conn:
            await publish_kinds(conn, registry.specs(), node.id)
        promoter = Poller("promoter", Promoter(self.db, lambda: worker.wake()).poll, self.bus)
        worker = Worker(self.db, self.bus, registry, node, {"imports": 2}, promoter.wake)
        pollers = [worker.claimer.poller, worker.acker.poller, worker.reporter, promoter]
        if watching:
            pollers.append(self.watch.poller())
        tasks = [asyncio.create_task(poller.run(), name=poller.name) for poller in pollers]
        try:
            yield
        finally:
            await worker.drain(0.0, asyncio.Event())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await pool.close()

    def notices(self) -> list[str]:
        """What was told so far."""
        return [event.message for event in self.events if isinstance(event, Notice)]


def _obey_permissions() -> None:
    """Take from this thread root's power to read what its owner may not; an ordinary user has none to lose."""
    if os.geteuid() != 0:
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, data) == 0
    data[0] &= ~0b110  # effective: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, data) == 0


@contextmanager
def permissions_matter() -> Iterator[None]:
    """Let file permissions count in the event loop's threads even where the tests run as root."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2, initializer=_obey_permissions) as obeying:
        loop.set_default_executor(obeying)
        try:
            yield
        finally:
            loop.set_default_executor(ThreadPoolExecutor())


async def names(conn: asyncpg.Connection) -> list[str]:
    """The files of all loads, in order."""
    return [row["file_name"] for row in await conn.fetch(LOADS)]


async def poll_until(inbox: Inbox, conn: asyncpg.Connection, wanted: list[str]) -> None:
    """Watch until these files have arrived."""

    async def arrived() -> bool:
        await inbox.watch.poll()
        assert await names(conn) == wanted
        return True

    await eventually(arrived)
