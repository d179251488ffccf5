"""The test session's Postgres, and a fresh migrated database for each test that asks for one.

Three environment variables change what the tests run on:

- `INGESTD_TEST_DATABASE_URL` names a server to use instead of starting one; databases are made and dropped in it.
- `INGESTD_TEST_POSTGRES` is the major version to start otherwise: 18, or 16.
- `INGESTD_REQUIRE_ALL=1` makes a skipped test fail, unless only another user could run it.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from ingestd.postgres.migrate import migrate
from ingestd.postgres.pool import Database, connect

# What a skip may say where nothing may be left out: the other half of a run as root and as an ordinary user shows it.
FOR_OTHERS = "only an ordinary user" if os.geteuid() == 0 else "only root"
# Databases are copied for each test and none has to survive a crash; tests about crashes start servers of their own.
FORGETFUL = ("fsync = off", "full_page_writes = off", "synchronous_commit = off")
ROOM_IN_MEMORY = 2 << 30  # bytes


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let skips fail where everything that tests need is there."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("INGESTD_REQUIRE_ALL") == "1":
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.startswith(FOR_OTHERS):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: skipped, and INGESTD_REQUIRE_ALL=1 allows no skips: {reason}"
    return report


def with_database(dsn: str, name: str) -> str:
    """The same URL with another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


def in_memory() -> str | None:
    """A folder in memory, where a database is copied four times as fast as on most disks; None where there is no room for it."""
    shared = Path("/dev/shm")
    if os.access(shared, os.W_OK | os.X_OK) and shutil.disk_usage(shared).free > ROOM_IN_MEMORY:
        return str(shared)
    return None


@pytest.fixture(scope="session", autouse=True)
def signals_as_usual() -> Iterator[None]:
    """A shell in the background, or nohup, has some signals ignored, and processes inherit that: what is started here must not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
async def server_dsn() -> AsyncIterator[str]:
    """URL of a running server."""
    given = os.environ.get("INGESTD_TEST_DATABASE_URL")
    if given:
        yield given
        return
    from ingestd.postgres.embedded import EmbeddedPostgres, EmbeddedSettings

    # Not pytest's own temporary folder: root's server runs as another user, who may not enter that.
    folder = Path(tempfile.mkdtemp(prefix="ingestd-tests-", dir=in_memory()))
    folder.chmod(0o711)
    version = int(os.environ.get("INGESTD_TEST_POSTGRES", "18"))
    server = EmbeddedPostgres(EmbeddedSettings(folder / "postgres", version=version), system_dir=folder / "system")
    try:
        url = await server.acquire()
        conn = await connect(url)
        for setting in FORGETFUL:
            await conn.execute(f"alter system set {setting}")
        await conn.execute("select pg_reload_conf()")
        await conn.close()
        yield url
    finally:
        await server.release()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def template(server_dsn: str) -> AsyncIterator[str]:
    """Name of a migrated database that others are copied from."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    admin = await connect(server_dsn)
    await admin.execute(f"create database {name}")
    conn = await connect(with_database(server_dsn, name))
    await migrate(conn)
    await conn.close()
    yield name
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()


@pytest.fixture
async def dsn(server_dsn: str, template: str) -> AsyncIterator[str]:
    """URL of a fresh migrated database of this test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = await connect(server_dsn)
    await admin.execute(f"create database {name} template {template}")
    yield with_database(server_dsn, name)
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    """Open pools on the test's database."""
    database = Database(dsn)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """One connection to the test's database."""
    connection = await connect(dsn)
    yield connection
    await connection.close()
