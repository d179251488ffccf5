"""The connections of one process, by purpose, so that no purpose can starve another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg

from ingestd.errors import IngestdError
from ingestd.postgres.hosts import open_session
from ingestd.postgres.outage import OUTAGE, SHORT, ConnectionLost, NoneFree, ServerShort, reason
from ingestd.postgres.session import AT_EASE, CONNECT_TIMEOUT_S, POOLED, connect, has_ended, is_pooled, prepare, takes_no_writes
from ingestd.postgres.silence import Attentive, cut_silent, end_left_behind, unanswered

STATEMENT_TIMEOUT_S = 60.0
# The driver stumbles over a session that is ended between two parts of a statement.
BROKEN: tuple[type[BaseException], ...] = (*OUTAGE, AttributeError)
RELEASE_TIMEOUT_S = 3.0
# Transactions of loops and pages are short. One whose line has fallen silent would keep its locks for hours otherwise, for the server
# does not know that nobody is there any more; and others of ours wait for them.
# Nor does it know that we no longer wait for a statement; and what a role's statements are given otherwise is meant for its queries.
OURS = {"idle_in_transaction_session_timeout": "15s", "statement_timeout": f"{STATEMENT_TIMEOUT_S + 5:.0f}s"}


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
                    **({} if self.pooled else AT_EASE),
                    **({} if name == "handlers" or self.pooled else OURS),
                },
                init=prepare,
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
        except BROKEN as error:
            if await has_ended(conn):
                raise ConnectionLost(f"Postgres went away: {reason(error)}") from error
            raise
        except SHORT as error:
            if name != "handlers":
                raise
            raise ServerShort(f"Postgres is short of disk or memory: {reason(error)}") from error
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
        return await connect(self.direct_dsn, application_name=name, settings={**AT_EASE, **(settings or {})}, pooled=pooled)


async def _leave(_conn: asyncpg.Connection) -> None:
    pass


async def _reset(conn: asyncpg.Connection) -> None:
    await conn.reset()


async def _reset_role(conn: asyncpg.Connection) -> None:
    # RESET ALL leaves a role behind that a handler has set
    await conn.execute("reset role")
    await conn.reset()
