"""What a test gives as its database: a URL, open pools, one connection whose transaction it rolls back, or nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from ingestd.errors import UsageError
from ingestd.postgres.pool import Database, PoolSizes

if TYPE_CHECKING:
    from ingestd.testing.sandbox import Sandbox


class OneConnection(Database):
    """Lends one connection for everything, so that all of it is part of the transaction that is open there.

    Args:
        conn: the test's own.
    """

    def __init__(self, conn: asyncpg.Connection) -> None:
        super().__init__("")
        self._conn = conn

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self, timeout_s: float = 5.0) -> None:
        """It is the test's to close."""

    @asynccontextmanager
    async def _lend(self, name: str) -> AsyncIterator[asyncpg.Connection]:
        yield self._conn

    async def connect(self, purpose: str, *, settings: Mapping[str, str] | None = None) -> asyncpg.Connection:
        """There is only one.

        Raises:
            UsageError: always.
        """
        raise UsageError("this job opens connections of its own: give the test a database instead of one connection")


class NoDatabase(Database):
    """Stands where a database would, for handlers that need none."""

    def __init__(self) -> None:
        super().__init__("")

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self, timeout_s: float = 5.0) -> None:
        """Nothing to close."""

    @asynccontextmanager
    async def _lend(self, name: str) -> AsyncIterator[asyncpg.Connection]:
        if name:
            raise UsageError("this job uses the database: give testing.run() one, such as database=ingestd_db")
        yield None

    async def connect(self, purpose: str, *, settings: Mapping[str, str] | None = None) -> asyncpg.Connection:
        """There is none.

        Raises:
            UsageError: always.
        """
        raise UsageError("this job opens connections: give testing.run() a database")


@asynccontextmanager
async def lend(given: str | Database | asyncpg.Connection | Sandbox) -> AsyncIterator[Database]:
    """Pools on whatever a test has given."""
    if isinstance(given, Database):
        yield given
    elif isinstance(given, str) or hasattr(given, "dsn"):
        database = Database(given if isinstance(given, str) else given.dsn, sizes=PoolSizes(1, 2, 4))
        await database.open()
        try:
            yield database
        finally:
            await database.close()
    elif hasattr(given, "fetchval"):
        yield OneConnection(given)
    else:
        raise TypeError(f"a database is a URL, a Sandbox, a Database or an asyncpg connection, not {_named(given)}")


def _named(value: Any) -> str:
    return type(value).__name__
