"""A connection that one loop keeps from one use to the next: to lend it out and back costs an idle process more than a small statement."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import asyncpg

Lend = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]


class Kept:
    """Lent when first used, and given back when it has failed or is no longer needed: `async with kept as conn`, by one user at a time.

    Args:
        lend: where it comes from, such as `database.core`; its errors are the block's.
    """

    def __init__(self, lend: Lend) -> None:
        self._lend = lend
        self._lent: AbstractAsyncContextManager[asyncpg.Connection] | None = None
        self._conn: asyncpg.Connection | None = None
        self._used = False
        self._unwanted = False

    async def __aenter__(self) -> asyncpg.Connection:
        """The connection; another one if that has ended meanwhile."""
        self._used, self._unwanted = True, False
        if self._conn is None or _has_ended(self._conn):
            try:
                await self._give_back()
                lent = self._lend()
                self._conn = await lent.__aenter__()
                self._lent = lent
            except BaseException:
                self._used = False
                raise
        return self._conn

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        """Keep it, unless something went wrong, which its lender says in its own words."""
        self._used = False
        if error is not None and self._lent is not None:
            lent, self._lent, self._conn = self._lent, None, None
            return await lent.__aexit__(kind, error, trace)
        if self._unwanted:
            await self._give_back()
        return None

    async def close(self) -> None:
        """Give it back; where it is in use, as soon as that is over."""
        self._unwanted = True
        if not self._used:
            await self._give_back()

    async def _give_back(self) -> None:
        lent, self._lent, self._conn = self._lent, None, None
        if lent is not None:
            await lent.__aexit__(None, None, None)


def _has_ended(conn: asyncpg.Connection) -> bool:
    try:
        return bool(conn.is_closed())
    except asyncpg.InterfaceError:
        return True  # the pool has taken it away
