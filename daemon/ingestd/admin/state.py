"""What `app` hands to the admin server: everything its handlers may use, and nothing global."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import InitVar, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from ingestd.access.book import TokenBook
from ingestd.access.roles import Actor
from ingestd.access.store import secret
from ingestd.admin.live import Live
from ingestd.admin.store import limit_time
from ingestd.events import Bus
from ingestd.facts import FactBook
from ingestd.jobs.registry import Registry
from ingestd.postgres.pool import Database
from ingestd.schedule.definitions import Definitions
from ingestd.schedule.dependencies import Successes
from ingestd.service import LoopState

READ_TIMEOUT_MS = 10_000
CONCURRENT_READS = 2

StartWorkflow = Callable[[asyncpg.Connection, Actor, str], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """The daemon process that serves.

    Args:
        id: its UUID, fresh per start.
        name: what people call it, usually the host's name.
        store: the UUID of its folder of files.
        started_at: when the process started.
    """

    id: UUID
    name: str
    version: str
    started_at: datetime
    duties: tuple[str, ...] = ()
    store: UUID | None = None


def _no_loops() -> Mapping[str, LoopState]:
    return {}


@dataclass
class AdminState:
    """Everything a handler may use.

    Args:
        loops: the daemon's loops by name, read at each call.
        ready: whether the node takes work, and if not, why.
        started: whether the start has been completed.
        imports: names of the declared imports.
        workflows: names of the declared workflows.
        definitions: creates, edits and deletes schedules that are not the file's.
        successes: answers whether what a schedule depends on has succeeded.
        start_workflow: enqueues a run and records it in the audit log; returns the run's id.
        state_dir: whose disk is watched.
        book: the database's tokens as this node knows them; made from `db` if not given.
        failures_in_a_row: from how many on something that runs is shown as unhealthy.
    """

    db: Database
    facts: FactBook
    bus: Bus
    node: NodeInfo
    registry: Registry
    environment: str = "production"
    state_dir: Path | None = None
    loops: Callable[[], Mapping[str, LoopState]] = _no_loops
    ready: Callable[[], tuple[bool, str]] = lambda: (True, "ready")
    started: Callable[[], bool] = lambda: True
    imports: Callable[[], Mapping[str, Any]] = dict
    workflows: Callable[[], Mapping[str, Any]] = dict
    start_workflow: StartWorkflow | None = None
    definitions: Definitions | None = None
    successes: Successes | None = None
    failures_in_a_row: Callable[[], int] = lambda: 3
    book: InitVar[TokenBook | None] = None
    tokens: TokenBook = field(init=False)
    live: Live = field(init=False)
    _reads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT_READS), init=False, repr=False)
    _cursor_key: bytes = field(default=b"", init=False, repr=False)

    def __post_init__(self, book: TokenBook | None) -> None:
        self.tokens = book or TokenBook(self.db)
        self.live = Live(self.db, self.bus)

    async def cursor_key(self) -> bytes:
        """What cursors are signed with, on all nodes alike."""
        if not self._cursor_key:
            async with self.reading() as conn:
                self._cursor_key = await secret(conn, "cursor")
        return self._cursor_key

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[asyncpg.Connection]:
        """One snapshot to read from. Few at a time: pages share their pool with the daemon's own loops."""
        async with self._reads, self.db.services() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            await limit_time(conn, READ_TIMEOUT_MS)
            yield conn

    @asynccontextmanager
    async def acting(self) -> AsyncIterator[asyncpg.Connection]:
        """One transaction for an action and its audit row."""
        async with self._reads, self.db.services() as conn, conn.transaction():
            yield conn
