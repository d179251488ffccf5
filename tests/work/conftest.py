"""A worker that runs in the test's loop against the test's database."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from ingestd.events import Bus, Event
from ingestd.jobs.promoter import Promoter
from ingestd.jobs.registry import HandlerSpec, Registry
from ingestd.jobs.store.queues import publish_kinds
from ingestd.postgres.pool import Database
from ingestd.service import Poller
from ingestd.work.node import NodeIdentity
from ingestd.work.worker import Worker

SLOTS = {"default": 16, "imports": 2, "rollups": 2, "maintenance": 2, "alerts": 4}


@dataclass
class Workbench:
    """A running worker, its promoter, and the events it told."""

    worker: Worker
    registry: Registry
    bus: Bus
    events: list[Event]
    node: NodeIdentity
    promoter: Poller


@asynccontextmanager
async def working(db: Database, *specs: HandlerSpec, slots: dict[str, int] | None = None) -> AsyncIterator[Workbench]:
    """Run a worker for as long as the block lasts."""
    bus, events = Bus(), []
    bus.subscribe(events.append)
    node = NodeIdentity(store=uuid.uuid4())
    registry = Registry(specs)
    async with db.services() as conn:
        await publish_kinds(conn, registry.specs(), node.id)
    promoter = Poller("promoter", Promoter(db, lambda: worker.wake()).poll, bus)
    worker = Worker(db, bus, registry, node, slots or SLOTS, promoter.wake)
    await worker.open()
    tasks = [
        asyncio.create_task(poller.run(), name=poller.name)
        for poller in (worker.claimer.poller, worker.acker.poller, worker.reporter, promoter)
    ]
    try:
        yield Workbench(worker, registry, bus, events, node, promoter)
    finally:
        await worker.drain(0.0, asyncio.Event())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def start_worker(db: Database) -> Callable[..., Any]:
    """`async with start_worker(spec, …) as bench`."""
    return lambda *specs, **options: working(db, *specs, **options)


def handler(kind: str, run: Callable[..., Awaitable[Any]], **options: Any) -> HandlerSpec:
    """A spec in one line."""
    return HandlerSpec(kind, run, **options)
