"""The connections of one process, by purpose, so that no purpose can starve another."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson

from ingestd.errors import ConfigurationError, DatabaseUnreachable, IngestdError, Refused
from ingestd.postgres.hosts import open_session, places
from ingestd.postgres.silence import Attentive, cut_silent, end_left_behind, unanswered

CONNECT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_S = 60.0
RELEASE_TIMEOUT_S = 3.0
# Behind a pooler each transaction may meet another server process: a statement prepared in one is unknown in the next.
POOLED: dict[str, Any] = {"statement_cache_size": 0}
# Transactions of loops and pages are short. One whose line has fallen silent would keep its locks for hours otherwise, for the server
# does not know that nobody is there any more; and others of ours wait for them.
# Nor does it know that we no longer wait for a statement; and what a role's statements are given otherwise is meant for its queries.
OURS = {"idle_in_transaction_session_timeout": "15s", "statement_timeout": f"{STATEMENT_TIMEOUT_S + 5:.0f}s"}
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


class NoneFree(DatabaseUnreachable, TimeoutError):
    """No connection became free within `acquire_timeout`."""


class ConnectionLost(DatabaseUnreachable, ConnectionError):
    """Postgres lets nobody in, or went away under a connection that was lent; what was not committed is rolled back."""


def dump_json(value: object) -> str:
    """Encode for jsonb, dates and UUIDs included.

    NUL cannot be stored in jsonb, so it becomes U+FFFD; half a surrogate pair becomes a question mark. Integers beyond 64 bits
    fall back to the stdlib encoder. What no double can hold becomes null, be it infinite or only too large: jsonb would take the
    latter, and nobody could read the row again.
    """
    try:
        text = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_NAIVE_UTC).decode()
    except TypeError:
        given = json.dumps(value, default=str, ensure_ascii=False)
        readable = json.loads(given, parse_int=_readable, parse_constant=lambda _: None)
        text = storable(json.dumps(readable, ensure_ascii=False))
    return text.replace("\\u0000", "\\ufffd")


def _readable(digits: str) -> int | None:
    return int(digits) if len(digits.lstrip("-")) <= sys.float_info.max_10_exp else None


def storable(text: str) -> str:
    """The text without what a Postgres text cannot hold: NUL becomes U+FFFD, half a surrogate pair a question mark."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def one_line(error: BaseException) -> str:
    """What an error says, its DETAIL and HINT on the same line; its class where it says nothing."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__


async def set_codecs(conn: asyncpg.Connection) -> None:
    """Let json and jsonb travel as Python values."""
    for name in ("json", "jsonb"):
        await conn.set_type_codec(name, schema="pg_catalog", encoder=dump_json, decoder=orjson.loads)


@dataclass(frozen=True, slots=True)
class PoolSizes:
    """How many connections each purpose may hold."""

    core: int = 2
    services: int = 4
    handlers: int = 18
    enqueues: int = 1


class Database:
    """The pools of one process.

    `core` serves claim and ack and is never lent; `services` serves loops, pages and the API; `handlers` serves jobs; `enqueues` serves
    single enqueues in nobody's transaction.

    Args:
        dsn: PostgreSQL connection URL.
        application_name: shown in pg_stat_activity; a rescuer finds a dead node's backends by it.
        sizes: connections a purpose.
        acquire_timeout_s: how long to wait for a free connection, in seconds.
        max_lifetime_s: a connection idle this long is closed, in seconds.
        direct_dsn: a URL past any pooler, for LISTEN and session locks; `dsn` if empty.
        pooled: `dsn` leads through a pooler.
    """

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str = "ingestd",
        sizes: PoolSizes | None = None,
        acquire_timeout_s: float = 30.0,
        max_lifetime_s: float = 3600.0,
        direct_dsn: str = "",
        pooled: bool = False,
    ) -> None:
        self.dsn = dsn
        self.direct_dsn = direct_dsn or dsn
        self.pooled = pooled
        # No session of ours lasts longer than a transaction: no session locks, no LISTEN.
        self.sessionless = pooled and not direct_dsn
        self.application_name = application_name
        self.sizes = sizes or PoolSizes()
        self._acquire_timeout_s = acquire_timeout_s
        self._max_lifetime_s = max_lifetime_s
        self._pools: dict[str, asyncpg.Pool] = {}
        self._lent: dict[str, set[Any]] = {}

    async def notice_pooler(self) -> None:
        """Find out whether the URL leads through a pooler; call it before `open`. Without an answer it is taken not to."""
        with suppress(*OUTAGE, IngestdError):
            conn = await connect(self.dsn, application_name=self.application_name, pooled=True)
            try:
                self.pooled = await is_pooled(conn)
                self.sessionless = self.pooled and self.direct_dsn == self.dsn
            finally:
                await conn.close(timeout=RELEASE_TIMEOUT_S)

    async def open(self) -> None:
        """Make the pools; connections are opened when first needed."""
        for name in ("core", "services", "handlers", "enqueues"):
            self._lent[name] = set()
            self._pools[name] = await asyncpg.create_pool(
                self.dsn,
                connect=open_session,
                connection_class=Attentive,
                min_size=0,
                max_size=getattr(self.sizes, name),
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=None if name == "handlers" else STATEMENT_TIMEOUT_S,
                max_inactive_connection_lifetime=min(self._max_lifetime_s, 300.0),
                server_settings={
                    "application_name": f"{self.application_name}:{name}",
                    "timezone": "UTC",
                    **({} if name == "handlers" or self.pooled else OURS),
                },
                init=_prepare,
                # What a session was left with concerns whoever gets it next; behind a pooler that is not up to us, and claims, acks and
                # enqueues are our own statements, to which two more round trips would be a fifth of the time.
                reset=_leave if self.pooled or name in ("core", "enqueues") else _reset_role if name == "handlers" else _reset,
                **(POOLED if self.pooled else {}),
            )

    async def close(self, timeout_s: float = 5.0) -> None:
        """Close every pool, forcibly after `timeout_s` seconds."""
        pools, self._pools = list(self._pools.values()), {}
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(pool.close() for pool in pools))
        except OUTAGE:
            for pool in pools:
                pool.terminate()

    @asynccontextmanager
    async def _lend(self, name: str) -> AsyncIterator[asyncpg.Connection]:
        pool, lent = self._pools[name], self._lent[name]
        try:
            conn = await pool.acquire(timeout=self._acquire_timeout_s)
        except TimeoutError:
            raise NoneFree("no database connection became free in time") from None
        except (*OUTAGE, asyncpg.PostgresError) as error:
            # It has let this process in before: a login that is refused now is an outage like any other, and nobody's failed attempt.
            raise ConnectionLost(f"Postgres lets nobody in: {reason(error)}") from error
        lent.add(conn)
        try:
            yield conn
        except OUTAGE as error:
            if await has_ended(conn):
                raise ConnectionLost(f"Postgres went away: {reason(error)}") from error
            raise
        except asyncpg.ReadOnlySQLTransactionError as error:
            if not takes_no_writes(conn):
                raise  # the transaction was meant to be read-only
            # A standby by now, or closed for writing: whoever asks next is given a new session, perhaps with the server that took over.
            conn.terminate()
            raise ConnectionLost(f"Postgres takes no writes: {reason(error)}") from error
        finally:
            try:
                with suppress(*OUTAGE):  # a connection that cannot be returned is closed instead
                    await pool.release(conn, timeout=RELEASE_TIMEOUT_S)
            finally:
                # Only now: a line that falls silent while its session is reset is cut off by `renew` too.
                lent.discard(conn)

    async def renew(self) -> None:
        """Trust no connection from before an outage: some may be open on this side only, and never answer.

        Those that are idle are replaced at their next use. Statements of loops are short and repeated, so they are cut off; a
        job's connection is left to the kernel's keepalive and to `cut_silent`, for cutting a healthy one would cost work.
        """
        for name, pool in self._pools.items():
            await pool.expire_connections()
            if name != "handlers":
                for conn in tuple(self._lent[name]):
                    with suppress(asyncpg.InterfaceError):  # it has just been returned
                        conn.terminate()
        if not self.pooled:
            async with self.services() as ask:
                await end_left_behind(ask, self.application_name, tuple(self._lent["handlers"]))

    async def cut_silent(self) -> int:
        """Break the lent connections whose line has fallen silent under a statement, so that jobs can be handed back and loops go on.

        Returns:
            How many there were.
        """
        # A pooler tells numbers of its own, which the server does not know.
        overdue = {} if self.pooled else unanswered(conn for lent in self._lent.values() for conn in lent)
        if not overdue:
            return 0
        # Not one of the pool's: all of those may be silent.
        ask = await self.connect("lines")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await cut_silent(overdue, ask)
        finally:
            ask.terminate()

    def core(self) -> Any:
        """Lend a connection for claim or ack: `async with db.core() as conn`."""
        return self._lend("core")

    def enqueues(self) -> Any:
        """Lend the connection for single enqueues, which leave nothing behind in it: `async with db.enqueues() as conn`."""
        return self._lend("enqueues")

    def services(self) -> Any:
        """Lend a connection to a loop, a page or an API call: `async with db.services() as conn`."""
        return self._lend("services")

    def handlers(self) -> Any:
        """Lend a connection to a job: `async with db.handlers() as conn`."""
        return self._lend("handlers")

    async def connect(self, purpose: str, *, settings: Mapping[str, str] | None = None) -> asyncpg.Connection:
        """Open a connection outside the pools, past any pooler; the caller closes it."""
        pooled = self.pooled and self.direct_dsn == self.dsn
        name = f"{self.application_name}:{purpose}"
        return await connect(self.direct_dsn, application_name=name, settings=settings, pooled=pooled)


async def _prepare(conn: asyncpg.Connection) -> None:
    notice_silence(conn)
    await set_codecs(conn)


def notice_silence(conn: asyncpg.Connection) -> None:
    """Have the kernel ask whether the other side is still there; asyncpg has no option for that."""
    sock = conn._transport.get_extra_info("socket")  # noqa: SLF001
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


async def _leave(_conn: asyncpg.Connection) -> None:
    pass


async def _reset(conn: asyncpg.Connection) -> None:
    await conn.reset()


async def _reset_role(conn: asyncpg.Connection) -> None:
    # RESET ALL leaves a role behind that a handler has set
    await conn.execute("reset role")
    await conn.reset()


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
    await _prepare(conn)
    return conn


async def is_pooled(conn: asyncpg.Connection) -> bool:
    """Whether a pooler stands between: it has told us a key of its own making, not that of the process that answers."""
    pid: int = await conn.fetchval("select pg_backend_pid()")
    return bool(pid != conn.get_server_pid())


def reason(error: BaseException) -> str:
    """An error of the network or the server in its own words, if it has any; not in the driver's, which are about its own states."""
    silent = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    ended = "the connection ended in the middle of a statement" if isinstance(error, asyncpg.InternalClientError) else None
    return ended or getattr(error, "strerror", None) or str(error) or silent


def describe(dsn: str) -> str:
    """The URL without its password, for people."""
    try:
        servers = [f"{host or 'the local socket'}:{port}" for host, port in places(dsn)]
        return f"{', '.join(servers)}{urlsplit(dsn).path}"
    except ValueError:
        return "the configured URL"
