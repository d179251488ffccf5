"""Where the database is: the embedded server, or the user's own; found by daemon and command line in the same way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ingestd.app.settings import CORE_CONNECTIONS, SERVICE_CONNECTIONS, Settings
from ingestd.errors import DatabaseUnreachable
from ingestd.events import Overdue
from ingestd.logging import conceal
from ingestd.postgres.embedded import EmbeddedPostgres, EmbeddedSettings
from ingestd.postgres.pool import Database, PoolSizes
from ingestd.postgres.session import connect, is_pooled
from ingestd.redaction import secrets_in

RETRY_S = 0.5
OVERDUE_S = 5.0
SAY_AGAIN_S = 15.0


@dataclass(frozen=True, slots=True)
class Location:
    """A database that answers.

    Args:
        dsn: its URL.
        direct_dsn: its URL past any pooler.
        embedded: our server, if it is ours.
        pooled: `dsn` leads through a pooler.
    """

    dsn: str
    direct_dsn: str
    embedded: EmbeddedPostgres | None
    pooled: bool = False


@asynccontextmanager
async def locate(settings: Settings, report: Callable[[str], None] = lambda _: None) -> AsyncIterator[Location]:
    """Find the database, starting the embedded server where there is no URL, and wait until it answers.

    Args:
        report: told in a few words what takes time.

    Raises:
        DatabaseUnreachable: it did not answer within `[daemon] start_timeout`.
        Refused: it refuses the login.
        ConfigurationError: the URL is malformed.
    """
    conceal(secrets_in(settings))
    url = settings.database.url.get_secret_value()
    if url:
        direct_url = settings.database.direct_url.get_secret_value()
        pooled = await wait_for(url, settings.daemon.start_timeout.total_seconds(), report)
        yield Location(url, direct_url or url, None, pooled)
        return
    server = EmbeddedPostgres(
        EmbeddedSettings(settings.daemon.state_dir.absolute() / "postgres", start_timeout=settings.daemon.start_timeout.total_seconds()),
        report=report,
    )
    dsn = await server.acquire()
    conceal([dsn])
    try:
        yield Location(dsn, dsn, server)
    finally:
        await server.release()


async def wait_for(url: str, timeout_s: float, report: Callable[[str], None] = lambda _: None) -> bool:
    """Wait until a server answers.

    Returns:
        Whether it answers through a pooler.

    Raises:
        DatabaseUnreachable: none did within `timeout_s` seconds.
    """
    began = time.monotonic()
    deadline, say_at = began + timeout_s, began + OVERDUE_S
    told = False
    while True:
        try:
            conn = await connect(url, timeout_s=max(1.0, min(10.0, deadline - time.monotonic())), pooled=True)
        except DatabaseUnreachable as error:
            if time.monotonic() + RETRY_S > deadline:
                raise DatabaseUnreachable(
                    f"{error.message} (waited {timeout_s:.0f} s)", hint="is it running, and is [database] url right?"
                ) from None
            if not told:
                report(f"waiting for Postgres: {error.message}")
                told = True
            if (now := time.monotonic()) > say_at:
                report(Overdue(f"waiting for Postgres, {now - began:.0f} of {timeout_s:.0f} s: {error.message}"))
                say_at = now + SAY_AGAIN_S
            await asyncio.sleep(RETRY_S)
        else:
            try:
                return await is_pooled(conn)
            finally:
                await conn.close()


def database(settings: Settings, location: Location, application_name: str) -> Database:
    """The pools of one process, sized by the configuration; still closed."""
    sizes = PoolSizes(core=CORE_CONNECTIONS - 5, services=SERVICE_CONNECTIONS, handlers=settings.handler_connections())
    return Database(
        location.dsn,
        application_name=application_name,
        sizes=sizes,
        acquire_timeout_s=settings.database.acquire_timeout.total_seconds(),
        max_lifetime_s=settings.database.max_lifetime.total_seconds(),
        direct_dsn=settings.database.direct_url.get_secret_value(),
        pooled=location.pooled,
    )
