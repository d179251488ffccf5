"""Databases to throw away: a server, a migrated template, and a copy of it for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import asyncpg

from ingestd.jobs.client import Client
from ingestd.postgres.migrate import migrate
from ingestd.postgres.scratch import scratch, with_database
from ingestd.postgres.session import connect
from ingestd.testing import store

if TYPE_CHECKING:
    from ingestd.testing.attempts import Ran
    from ingestd.testing.inline import Drained, Kind
    from ingestd.testing.queue import Open

URL_VARIABLE = "INGESTD_TEST_DATABASE_URL"
VERSION_VARIABLE = "INGESTD_TEST_POSTGRES"
# Databases are copied for each test and none has to survive a crash.
FORGETFUL = ("fsync = off", "full_page_writes = off", "synchronous_commit = off")
ROOM_IN_MEMORY = 2 << 30  # bytes


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A fresh migrated database of one test.

    Args:
        dsn: its URL.
    """

    dsn: str

    def client(self) -> Client:
        """A client: `async with ingestd_db.client() as client`."""
        return Client(self.dsn)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection, for as long as the block lasts."""
        conn = await connect(self.dsn, application_name="ingestd:test")
        try:
            yield conn
        finally:
            await conn.close(timeout=5)

    async def run(self, job: Kind, args: Mapping[str, Any] | None = None, **options: Any) -> Ran:
        """`testing.run` on this database."""
        from ingestd.testing import inline

        return await inline.run(job, args, database=self.dsn, **options)

    async def drain(
        self, *jobs: Kind | ModuleType, queues: Sequence[str] | None = None, ahead: str | timedelta = timedelta(), **options: Any
    ) -> Drained:
        """`testing.drain` on this database."""
        from ingestd.testing import inline

        return await inline.drain(self.dsn, *jobs, queues=queues, ahead=ahead, **options)

    async def publish(self, *jobs: Kind | ModuleType) -> None:
        """`testing.publish` on this database."""
        from ingestd.testing import inline

        await inline.publish(self.dsn, *jobs)

    async def enqueued(self, kind: str | None = None, args: Mapping[str, Any] | None = None, *, queue: str | None = None) -> list[Open]:
        """`testing.enqueued` on this database."""
        from ingestd.testing import queue as queues

        return await queues.enqueued(self.dsn, kind, args, queue=queue)

    async def assert_enqueued(self, kind: str, args: Mapping[str, Any] | None = None, **options: Any) -> list[Open]:
        """`testing.assert_enqueued` on this database."""
        from ingestd.testing import queue as queues

        return await queues.assert_enqueued(self.dsn, kind, args, **options)


@asynccontextmanager
async def server(
    environ: Mapping[str, str] = os.environ, *, settings: Sequence[str] = FORGETFUL, restart: bool = False
) -> AsyncIterator[str]:
    """URL of a running server: the one that `INGESTD_TEST_DATABASE_URL` names, else an embedded one for as long as the block lasts.

    Args:
        settings: of an embedded one.
        restart: some of them hold only from the next start on.
    """
    given = environ.get(URL_VARIABLE)
    if given:
        yield given
        return
    from ingestd.postgres.embedded import EmbeddedPostgres, EmbeddedSettings

    # Not pytest's own temporary folder: root's server runs as another user, who may not enter that.
    folder = Path(tempfile.mkdtemp(prefix="ingestd-tests-", dir=in_memory()))
    folder.chmod(0o711)  # noqa: ASYNC240 - a moment
    wanted = EmbeddedSettings(folder / "postgres", version=int(environ.get(VERSION_VARIABLE, "18")))
    embedded = EmbeddedPostgres(wanted, system_dir=folder / "system")
    try:
        url = await embedded.acquire()
        conn = await connect(url)
        await store.configure(conn, settings)
        await store.reload(conn)
        await conn.close()
        if restart:
            await embedded.release()
            url = await embedded.acquire()
        yield url
    finally:
        await embedded.release()
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def template(server_url: str) -> AsyncIterator[str]:
    """Name of a migrated database that others are copied from."""
    async with scratch(server_url, "template") as name:
        conn = await connect(with_database(server_url, name))
        await migrate(conn)
        await conn.close()
        yield name


@asynccontextmanager
async def copy(server_url: str, template_name: str) -> AsyncIterator[str]:
    """URL of a fresh copy of a template."""
    async with scratch(server_url, "test", template_name) as name:
        yield with_database(server_url, name)


def in_memory() -> str | None:
    """A folder in memory, where a database is copied four times as fast as on most disks; None where there is no room for it."""
    shared = Path("/dev/shm")  # noqa: S108 - made by mkdtemp, which nobody else can look into
    if os.access(shared, os.W_OK | os.X_OK) and shutil.disk_usage(shared).free > ROOM_IN_MEMORY:
        return str(shared)
    return None
