"""A node of its own process that works on the queue `ingestd_bench` and on nothing else, until its input ends.

It is wired as a daemon is, but applies no configuration: in a database that other nodes use, what they have declared stays.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ingestd import logging
from ingestd.app.database import database, locate
from ingestd.app.rooms import InForce, Rooms
from ingestd.app.settings import DaemonSettings, DatabaseSettings, Settings
from ingestd.app.supervisor import Supervisor
from ingestd.events import Bus
from ingestd.files.spool import Store
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.settings import QueueSettings
from ingestd.jobs.store.queues import publish_kinds
from ingestd.lab.store import KINDS, QUEUE
from ingestd.logging import LogListener
from ingestd.service import Poller
from ingestd.work.context import Context
from ingestd.work.node import NodeIdentity

URL, STATE_DIR, SLOTS = "INGESTD_BENCH_URL", "INGESTD_BENCH_STATE_DIR", "INGESTD_BENCH_SLOTS"
HAND_BACK_S = 2.0
READY = b"ready\n"


async def noop(_ctx: Context) -> None:
    """A job that does nothing."""


async def ping(_ctx: Context, sent_ns: int) -> int:
    """How long it took from the enqueue to this line, in nanoseconds; one clock for all processes of a machine."""
    return time.monotonic_ns() - sent_ns


def specs() -> list[HandlerSpec]:
    """The two kinds."""
    return [HandlerSpec(KINDS[0], noop, queue=QUEUE, max_attempts=1), HandlerSpec(KINDS[1], ping, queue=QUEUE, max_attempts=1)]


def settings(url: str, state_dir: Path, slots: int) -> Settings:
    """A node that only works, and only on our queue."""
    return Settings(
        daemon=DaemonSettings(state_dir=state_dir, queues=[QUEUE], duties=["work"]),
        database=DatabaseSettings(url=SecretStr(url)),
        queues={QUEUE: QueueSettings(concurrency=slots)},
    )


async def serve(wanted: Settings, until: asyncio.Event, ready: Any) -> None:
    """Be that node until told to end."""
    bus = Bus()
    bus.subscribe(LogListener())
    store = Store(wanted.daemon.state_dir)
    store.open()
    async with AsyncExitStack() as stack:
        location = await stack.enter_async_context(locate(wanted))
        node = NodeIdentity(store.id)
        db = database(wanted, location, node.application_name)
        await db.open()
        stack.push_async_callback(db.close)
        supervisor = Supervisor(bus)
        stack.push_async_callback(supervisor.stop_all)
        rooms = Rooms(InForce(wanted), db, store, node, bus, [], specs())
        stack.push_async_callback(rooms.listener.close)
        rooms.worker.notes = rooms.presence.enter(node.id)
        stack.callback(rooms.presence.leave, node.id)
        await rooms.heartbeat.start()
        stack.push_async_callback(rooms.heartbeat.stop)
        async with db.services() as conn:
            await publish_kinds(conn, specs(), node.id)
        worker = rooms.worker
        loops = (Poller("listener", rooms.listener.poll, bus), rooms.promoter, worker.acker.poller, worker.reporter, worker.claimer.poller)
        for service in loops:
            supervisor.start(service)
        ready()
        await until.wait()
        await worker.drain(HAND_BACK_S, asyncio.Event())


async def _main() -> None:
    until = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Whoever started us holds the other end: it closes when they are done, or gone.
    loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 1024) else until.set())

    def ready() -> None:
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()

    await serve(settings(os.environ[URL], Path(os.environ[STATE_DIR]), int(os.environ[SLOTS])), until, ready)


def main() -> None:
    """Be the process."""
    import uvloop

    logging.configure("warning", sys.stderr)
    uvloop.run(_main())


if __name__ == "__main__":
    main()
