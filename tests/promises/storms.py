"""What the tests of outages share: work that goes on coming, somebody who looks every moment, and a server that can be stopped."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import asyncpg

from ingestd.errors import DatabaseUnreachable, Refused
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres.embedded import EmbeddedPostgres, EmbeddedSettings
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.session import connect
from ingestd.testing.sandbox import in_memory
from tests.daemon import readings
from tests.daemon.harness import Daemon, Site
from tests.faults import ledger
from tests.support import eventually

LONG = os.environ.get("INGESTD_LONG_TESTS") == "1"
BATCH, BATCH_EVERY_S = 10, 0.1
FILE_ROWS, FILE_EVERY_S = 2_000, 1.0
LOOK_EVERY_S = 0.2
KNOWN = "select id from ingestd.job where id = any ($1) union select id from ingestd.history where id = any ($1)"
# An outage is nobody's failed attempt.
SPENT = """
select kind, attempt, crashes, attempts[0] #>> '{error,traceback}' as error from ingestd.history
where attempt > 1 or crashes > 0 or state <> 'succeeded'"""
# Why files are not loaded.
WHY = (
    "select id, file_name, status, arrival_id from ingestd.load order by id",
    "select * from ingestd.job where kind = 'load'",
    """select pid, application_name, state, wait_event_type, wait_event, pg_blocking_pids(pid), now() - xact_start as age, left(query, 300)
    from pg_stat_activity where datname = current_database() and backend_type = 'client backend'""",
)
COUNTED = "select count(*) as rows, count(distinct reading) as readings from public.readings"


class Stream:
    """Jobs and files that go on coming, whatever happens to Postgres: `async with Stream(site) as stream`.

    Args:
        site: where the files go.
        dsn: where the jobs go.
    """

    def __init__(self, site: Site, dsn: str) -> None:
        self.accepted: list[int] = []
        self.in_doubt: list[int] = []
        self.files: list[str] = []
        self._site = site
        self._dsn = dsn
        self._tasks: list[asyncio.Task[None]] = []
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._enqueue(), name="jobs"), asyncio.create_task(self._write(), name="files")]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome

    async def goes_on(self) -> None:
        """Until further jobs have been accepted and another file has come."""
        jobs, files = len(self.accepted), len(self.files)
        await eventually(lambda: len(self.accepted) >= jobs + 2 * BATCH and len(self.files) > files, timeout_s=60)

    async def all_done_once(self, conn: asyncpg.Connection, timeout_s: float = 90.0) -> None:
        """Until every job has left its one row and every file its rows, and nothing has been tried twice."""
        # Of these nobody knows whether they were accepted; at most once holds for them too.
        found = {row["id"] for row in await conn.fetch(KNOWN, self.in_doubt)}
        ids = self.accepted + sorted(found)

        async def even() -> bool:
            await ledger.assert_exactly_once(conn, ids)
            return True

        await eventually(even, timeout_s=timeout_s, every_s=0.2)
        try:
            await readings.all_loaded(self._site, *self.files, timeout_s=timeout_s)
        except AssertionError as error:
            raise AssertionError([dict(row) for query in WHY for row in await conn.fetch(query)]) from error
        counted = await conn.fetchrow(COUNTED)
        assert counted is not None
        assert counted["rows"] == counted["readings"] == len(self.files) * FILE_ROWS
        spent = [dict(row) for row in await conn.fetch(SPENT)]
        assert spent == [], spent
        assert await conn.fetchval("select count(*) from ingestd.job where claim is not null and kind = $1", ledger.KIND) == 0

    async def _enqueue(self) -> None:
        conn: asyncpg.Connection | None = None
        while True:
            ids: list[int] = []
            try:
                conn = conn or await connect(self._dsn, application_name="producer", timeout_s=2)
                async with conn.transaction():
                    ids = await enqueue(conn, [NewJob(ledger.KIND) for _ in range(BATCH)])
                self.accepted += ids
            except (*OUTAGE, asyncpg.PostgresError, DatabaseUnreachable, Refused):
                self.in_doubt += ids
                conn = await _closed(conn)
            except asyncio.CancelledError:
                self.in_doubt += ids
                await _closed(conn)
                raise
            await asyncio.sleep(BATCH_EVERY_S)

    async def _write(self) -> None:
        while True:
            name, start = f"part-{len(self.files):04d}.csv", len(self.files) * FILE_ROWS
            # Counted before it is there, so it must come although this is cancelled meanwhile, or before its thread has begun.
            self.files.append(name)
            self._writing = asyncio.create_task(readings.put_readings(self._site, name, FILE_ROWS, start=start), name="file")
            await asyncio.shield(self._writing)
            await asyncio.sleep(FILE_EVERY_S)


async def _closed(conn: asyncpg.Connection | None) -> None:
    if conn is not None:
        with suppress(*OUTAGE, asyncpg.PostgresError):
            await conn.close(timeout=1)


@dataclass(frozen=True, slots=True)
class Look:
    """What a probe was told at a moment; 0: no answer."""

    at: float
    live: int
    ready: int


class Probe:
    """Somebody who asks for life and readiness every moment: `async with Probe(daemon) as probe`."""

    def __init__(self, daemon: Daemon) -> None:
        self.looks: list[Look] = []
        self._daemon = daemon
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look(), name="probe")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def becomes(self, ready: int, since: float, within_s: float) -> None:
        """Until it says that it is ready (200) or not (503), which must be soon after a moment."""
        found = await eventually(
            lambda: next((look for look in self.looks if look.at > since and look.ready == ready), None),
            timeout_s=within_s + 10,
            saying=f"readiness {ready}",
        )
        assert found.at - since < within_s, f"readiness {ready} took {found.at - since:.1f} s"

    def said(self, since: float, until: float) -> set[int]:
        """All answers about readiness between two moments."""
        return {look.ready for look in self.looks if since < look.at < until}

    def always_alive(self) -> bool:
        """Whether every look found it alive, and there were many."""
        assert len(self.looks) > 5
        assert {look.live for look in self.looks} == {200}, [look for look in self.looks if look.live != 200]
        return True

    async def _look(self) -> None:
        while True:
            began = time.monotonic()
            self.looks.append(Look(began, await self._status("live"), await self._status("ready")))
            await asyncio.sleep(LOOK_EVERY_S)

    async def _status(self, what: str) -> int:
        with suppress(OSError, aiohttp.ClientError):
            return (await self._daemon.get(f"/health/{what}"))[0]
        return 0


async def lasts(seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Let a time pass, looking at something all along."""
    until = time.monotonic() + seconds

    def over() -> bool:
        meanwhile()
        return time.monotonic() > until

    await eventually(over, timeout_s=seconds + 20, every_s=0.1)


class OwnServer:
    """A Postgres of one test's own, whose URL stays the same while it is stopped, killed and started."""

    def __init__(self, folder: Path) -> None:
        self.dsn = ""
        self._postgres = EmbeddedPostgres(EmbeddedSettings(folder / "postgres"), system_dir=folder / "system")

    @property
    def pid(self) -> int:
        """The postmaster."""
        found = self._postgres.postmaster_pid
        assert found is not None
        return found

    async def start(self) -> None:
        """Start it, after whatever end."""
        self.dsn = await self._postgres.acquire()

    async def start_again(self) -> None:
        """Start it after it was killed."""
        await self._postgres.ensure_running()

    async def stop(self) -> None:
        """Shut it down as an administrator does who does not wait for clients."""
        await self._postgres.release()


@asynccontextmanager
async def own_server() -> AsyncIterator[OwnServer]:
    """A server of one's own for the length of a block."""
    # Not pytest's own temporary folder: root's server runs as another user, who may not enter that.
    folder = Path(tempfile.mkdtemp(prefix="ingestd-storm-", dir=in_memory()))
    folder.chmod(0o711)
    server = OwnServer(folder)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)
