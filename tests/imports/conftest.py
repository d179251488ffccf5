"""Fixtures of the imports room."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from ingestd.postgres.pool import Database
from tests.imports.arriving import Inbox
from tests.imports.loading import LoadBench


@pytest.fixture
async def bench(dsn: str, conn: asyncpg.Connection, tmp_path: Path) -> LoadBench:
    """Loads in the test's own process, into the test's own database."""
    await conn.execute("set search_path = public")
    return LoadBench(dsn, conn, tmp_path)


@pytest.fixture
def inbox(db: Database, tmp_path: Path) -> Inbox:
    """A watched folder, and what takes from it."""
    return Inbox(db, tmp_path)
