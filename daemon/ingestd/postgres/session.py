"""One connection: how it is made, and how it is with it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from ingestd.errors import ConfigurationError, DatabaseUnreachable, Refused
from ingestd.postgres.codecs import set_codecs
from ingestd.postgres.hosts import open_session, places
from ingestd.postgres.outage import OUTAGE, reason
from ingestd.postgres.silence import Attentive

CONNECT_TIMEOUT_S = 10.0
# Behind a pooler each transaction may meet another server process: a statement prepared in one is unknown in the next.
POOLED: dict[str, Any] = {"statement_cache_size": 0}
# Sessions rest by nature, that of the heartbeat between beats, whatever the role's or the database's are allowed.
AT_EASE = {"idle_session_timeout": "0"}
# A server's goodbye arrives just before the end of the connection is noticed.
GOODBYE_S = 0.1
# A peer that vanished without a word is noticed within half a minute, also by a statement that only waits for its answer.
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)


async def connect(
    dsn: str,
    *,
    application_name: str = "ingestd",
    settings: Mapping[str, str] | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
    pooled: bool = False,
) -> asyncpg.Connection:
    """Open one connection with our codecs.

    Args:
        settings: of the session, beyond the application name; left out behind a pooler, which would refuse them.
        pooled: the URL leads through a pooler, or may do so.

    Raises:
        ConfigurationError: the URL is malformed.
        Refused: Postgres refuses the login or the database does not exist.
        DatabaseUnreachable: nothing answers.
    """
    try:
        conn = await open_session(
            dsn,
            timeout=timeout_s,
            connection_class=Attentive,
            server_settings={"application_name": application_name, "timezone": "UTC", **({} if pooled else settings or {})},
            **(POOLED if pooled else {}),
        )
    except (ValueError, asyncpg.ClientConfigurationError) as error:
        raise ConfigurationError([f"[database] url: not a PostgreSQL URL ({error})"]) from None
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise Refused(f"Postgres refuses the connection: {error}") from None
    except OUTAGE as error:
        raise DatabaseUnreachable(f"Postgres is not reachable at {describe(dsn)}: {reason(error)}") from error
    except asyncpg.PostgresError as error:
        # a setting in the URL that it does not know, say
        raise Refused(f"Postgres refuses the connection: {error}", hint="is [database] url right?") from None
    await prepare(conn)
    return conn


async def is_pooled(conn: asyncpg.Connection) -> bool:
    """Whether a pooler stands between: it has told us a key of its own making, not that of the process that answers."""
    pid: int = await conn.fetchval("select pg_backend_pid()")
    return bool(pid != conn.get_server_pid())


def describe(dsn: str) -> str:
    """The URL without its password, for people."""
    try:
        servers = [f"{host or 'the local socket'}:{port}" for host, port in places(dsn)]
        return f"{', '.join(servers)}{urlsplit(dsn).path}"
    except ValueError:
        return "the configured URL"


async def prepare(conn: asyncpg.Connection) -> None:
    """Make a new session one of ours."""
    notice_silence(conn)
    await set_codecs(conn)


def notice_silence(conn: asyncpg.Connection) -> None:
    """Have the kernel ask whether the other side is still there."""
    sock = conn._transport.get_extra_info("socket")  # noqa: SLF001 - the driver has no option for that
    if sock is None or sock.family == socket.AF_UNIX:
        return
    # uvloop shows a socket without setsockopt; a duplicate of its descriptor is the same socket.
    with socket.socket(fileno=os.dup(sock.fileno())) as twin:
        for level, option, value in KEEPALIVE:
            twin.setsockopt(level, option, value)


async def has_ended(conn: asyncpg.Connection) -> bool:
    """Whether a connection that just failed is closed, or is about to be."""
    deadline = time.monotonic() + GOODBYE_S
    while not is_closed(conn):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True


def is_closed(conn: asyncpg.Connection) -> bool:
    """Whether a connection has ended, also one that a pool has taken away since it was lent."""
    try:
        return bool(conn.is_closed())
    except asyncpg.InterfaceError:
        return True  # the pool has noticed its end, and taken it away from whoever it was lent to


def takes_no_writes(conn: asyncpg.Connection) -> bool:
    """Whether the server of a session is a standby, or was told to take no writes, as far as it has told us."""
    if is_closed(conn):
        return False
    told = conn.get_settings()
    return "on" in (getattr(told, "in_hot_standby", "off"), getattr(told, "default_transaction_read_only", "off"))
