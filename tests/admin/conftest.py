"""An admin server on a free port over the test's database, and a client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from ingestd.admin.server import AdminServer
from ingestd.admin.settings import AdminSettings
from ingestd.admin.state import AdminState, NodeInfo
from ingestd.events import Bus, Event
from ingestd.facts import FactBook
from ingestd.imports.settings import ImportSettings
from ingestd.jobs.facts import facts as job_facts
from ingestd.jobs.registry import HandlerSpec, Registry
from ingestd.jobs.store.queues import publish_kinds
from ingestd.postgres.pool import Database
from ingestd.rollups.facts import facts as rollup_facts

TOKEN = "a-token-of-more-than-sixteen-characters"


async def nothing(_: Any) -> None:
    """A handler that is never run here."""


async def anything(ctx: Any, **args: Any) -> None:
    """A handler that takes whatever it is given."""


@dataclass
class Site:
    """A running admin server and a client that knows its address."""

    url: str
    client: aiohttp.ClientSession
    state: AdminState
    server: AdminServer
    events: list[Event]

    async def get(self, path: str, status: int = 200, **how: Any) -> Any:
        """GET, assert the status, return the JSON body."""
        async with self.client.get(self.url + path, **how) as response:
            body = await response.json(content_type=None) if "json" in response.content_type else await response.text()
            assert response.status == status, body
            return body

    async def post(self, path: str, status: int = 200, **how: Any) -> Any:
        """POST, assert the status, return the JSON body."""
        async with self.client.post(self.url + path, **how) as response:
            body = await response.json(content_type=None) if "json" in response.content_type else await response.text()
            assert response.status == status, body
            return body

    def request(self, method: str, path: str, **how: Any) -> Any:
        """Any request, for `async with`."""
        return self.client.request(method, self.url + path, **{"allow_redirects": False} | how)


Open = Callable[..., Awaitable[Site]]


@pytest.fixture
async def open_site(db: Database, tmp_path: Path) -> AsyncIterator[Open]:
    """Makes admin servers; keyword arguments go into the settings, `state` changes the state."""
    sites: list[Site] = []

    async def open_one(*, state: dict[str, Any] | None = None, **settings: Any) -> Site:
        bus = Bus()
        events: list[Event] = []
        bus.subscribe(events.append)
        registry = Registry([HandlerSpec("sync_prices", anything), HandlerSpec("load", nothing, queue="imports")])
        node = NodeInfo(uuid4(), "testnode", "0.0.1", datetime.now(UTC), ("work", "serve"))
        async with db.services() as conn:
            await publish_kinds(conn, registry.specs(), node.id)
        book = FactBook()
        book.add("jobs", job_facts())
        book.add("rollups", rollup_facts())
        declared = {"readings": ImportSettings(source=str(tmp_path / "*.csv"), table="readings")}
        given = {
            "db": db, "facts": book, "bus": bus, "node": node, "registry": registry, "environment": "testing",
            "state_dir": tmp_path, "imports": lambda: declared,
        }  # fmt: skip
        made = AdminState(**(given | (state or {})))
        server = AdminServer(made, AdminSettings(**({"port": 0} | settings)))
        url = await server.start()
        site = Site(url, aiohttp.ClientSession(), made, server, events)
        sites.append(site)
        return site

    yield open_one
    for site in sites:
        await site.client.close()
        await site.server.stop()


@pytest.fixture
async def site(open_site: Open) -> Site:
    """An admin server without a token: the test's own user acts as operator."""
    return await open_site()


@pytest.fixture
async def guarded(open_site: Open) -> Site:
    """An admin server with a token: who brings none may look only."""
    return await open_site(token=TOKEN)
