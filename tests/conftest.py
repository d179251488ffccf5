"""The test session's Postgres, and a fresh migrated database for each test that asks for one.

`INGESTD_TEST_DATABASE_URL` names a server to use instead of starting one; databases are made and dropped in it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from ingestd.postgres.migrate import migrate
from ingestd.postgres.pool import Database, connect


def with_database(dsn: str, name: str) -> str:
    """The same URL with another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
async def server_dsn() -> AsyncIterator[str]:
    """URL of a running server."""
    given = os.environ.get("INGESTD_TEST_DATABASE_URL")
    if given:
        yield given
        return
    from ingestd.postgres.embedded import EmbeddedPostgres, EmbeddedSettings

    # Open to pass through: root's server runs as another user, and pytest's own folders are closed to everybody.
    folder = Path(tempfile.mkdtemp(prefix="ingestd-test-"))
    folder.chmod(0o711)
    version = int(os.environ.get("INGESTD_TEST_POSTGRES", "18"))
    server = EmbeddedPostgres(EmbeddedSettings(data_dir=folder / "postgres", version=version))
    yield await server.acquire()
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
