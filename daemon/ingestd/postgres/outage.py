"""What is an outage: how the driver says that Postgres is gone, going or not there yet, and how we say it."""

from __future__ import annotations

import asyncpg

from ingestd.errors import DatabaseUnreachable

# What a connection that is gone, going or not there yet raises; OSError covers refused and reset ones.
OUTAGE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)


# The server's own want, mostly for a while; a limit that somebody has set for a session is none.
SHORT: tuple[type[BaseException], ...] = (asyncpg.DiskFullError, asyncpg.OutOfMemoryError)


class NoneFree(DatabaseUnreachable, TimeoutError):
    """No connection became free within `acquire_timeout`."""


class ConnectionLost(DatabaseUnreachable, ConnectionError):
    """Postgres lets nobody in, or went away under a connection that was lent; what was not committed is rolled back."""


class ServerShort(ConnectionLost):
    """Postgres has no disk or memory left for what was asked of it; that was rolled back."""


def one_line(error: BaseException) -> str:
    """What an error says, its DETAIL and HINT on the same line; its class where it says nothing."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__


def reason(error: BaseException) -> str:
    """An error of the network or the server in its own words, if it has any; not in the driver's, which are about its own states."""
    silent = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    unusable = isinstance(error, AttributeError) or (isinstance(error, asyncpg.InterfaceError) and str(error).startswith("cannot call "))
    ended = "the connection ended in the middle of a statement" if unusable or isinstance(error, asyncpg.InternalClientError) else None
    return ended or getattr(error, "strerror", None) or str(error) or silent
