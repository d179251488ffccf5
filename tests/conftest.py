"""The test session's Postgres, and a fresh migrated database for each test that asks for one.

Three environment variables change what the tests run on:

- `INGESTD_TEST_DATABASE_URL` names a server to use instead of starting one; databases are made and dropped in it.
- `INGESTD_TEST_POSTGRES` is the major version to start otherwise: 18, or 16.
- `INGESTD_REQUIRE_ALL=1` makes a skipped test fail, unless only another user could run it, or no user of this machine may.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import asyncpg
import pytest
import structlog

from ingestd.postgres.pool import Database, PoolSizes
from ingestd.postgres.session import connect
from ingestd.testing import sandbox

# What a skip may say where nothing may be left out: the other half of a run as root and as an ordinary user shows it.
FOR_OTHERS = "only an ordinary user" if os.geteuid() == 0 else "only root"
FORBIDDEN = "this machine does not permit"
# What some tests look at: prepared transactions and logical slots.
SPECIAL = ("wal_level = logical", "max_prepared_transactions = 4")
# Mostly waiting, for processes, outages and pages, or for their own time; those that take longest first.
WAITING = ("promises", "daemon", "browser", "cli", "work", "postgres")
# How far into the run the last of those begins.
WAITING_UNTIL = 0.85


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spread files that wait among those that compute, where several processes take files in this order.

    Else all that wait run at the same time, when nobody computes, and are late for each other; and the run's end waits for the last.
    """
    if not hasattr(config, "workerinput"):
        return
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    waiting = sorted((path for path in files if path.parent.name in WAITING), key=lambda path: WAITING.index(path.parent.name))
    others = [path for path in files if path.parent.name not in WAITING]
    turn = {path: WAITING_UNTIL * number / len(waiting) for number, path in enumerate(waiting)}
    turn |= {path: number / len(others) for number, path in enumerate(others)}
    items[:] = [item for path in sorted(files, key=turn.__getitem__) for item in files[path]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let skips fail where everything that tests need is there; show what the daemons of a failed test have said."""
    report = yield
    if report.failed and report.when == "call":
        for name, value in getattr(item, "funcargs", {}).items():
            if callable(evidence := getattr(value, "evidence", None)):
                report.sections.append((f"daemons of {name}", evidence()))
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("INGESTD_REQUIRE_ALL") == "1":
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.startswith((FOR_OTHERS, FORBIDDEN)):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: skipped, and INGESTD_REQUIRE_ALL=1 allows no skips: {reason}"
    return report


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
    async with sandbox.server(settings=(*sandbox.FORGETFUL, *SPECIAL), restart=True) as url:
        yield url


@pytest.fixture(scope="session")
async def template(server_dsn: str) -> AsyncIterator[str]:
    """Name of a migrated database that others are copied from."""
    async with sandbox.template(server_dsn) as name:
        yield name


@pytest.fixture
async def dsn(server_dsn: str, template: str) -> AsyncIterator[str]:
    """URL of a fresh migrated database of this test's own."""
    async with sandbox.copy(server_dsn, template) as url:
        yield url


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    """Open pools on the test's database."""
    # Enough for tests with several workers, each of which keeps one to claim with.
    database = Database(dsn, sizes=PoolSizes(core=8))
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """One connection to the test's database."""
    connection = await connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def heard(dsn: str) -> AsyncIterator[list[str]]:
    """What nodes are told of jobs."""
    listening = await connect(dsn)
    words: list[str] = []
    await listening.add_listener("ingestd_job", lambda *message: words.append(message[3]))
    yield words
    await listening.close()


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Give back the logging that the test run had."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
