"""A connection that one loop keeps from one use to the next: to lend it out and back costs an idle process more than a small statement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import asyncpg

from ingestd.postgres.session import is_closed

# Unused for so long it goes back to its pool, which closes what is idle: whoever enqueues once an hour holds no session meanwhile.
IDLE_S = 60.0

Lend = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]


class Kept:
    """Lent when first used, and given back when it has failed or is no longer needed: `async with kept as conn`, by one user at a time.

    Args:
        lend: where it comes from, such as `database.core`; its errors are the block's.
        idle_s: it is given back when it has not been used for so long, in seconds.
    """

    def __init__(self, lend: Lend, idle_s: float = IDLE_S) -> None:
        self._lend = lend
        self._idle_s = idle_s
        self._used_at = 0.0
        # One for all uses: a timer set and cancelled for each would cost as much as is spared.
        self._look_again: asyncio.TimerHandle | None = None
        self._return: asyncio.Task[None] | None = None
        self._lent: AbstractAsyncContextManager[asyncpg.Connection] | None = None
        self._conn: asyncpg.Connection | None = None
        self._used = False
        self._unwanted = False

    async def __aenter__(self) -> asyncpg.Connection:
        """The connection; another one if that has ended meanwhile."""
        self._used, self._unwanted = True, False
        if self._conn is None or is_closed(self._conn):
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
        else:
            self._used_at = asyncio.get_running_loop().time()
            self._look_after(self._idle_s)
        return None

    async def close(self) -> None:
        """Give it back; where it is in use, as soon as that is over."""
        self._unwanted = True
        if not self._used:
            await self._give_back()

    async def _give_back(self) -> None:
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None
        lent, self._lent, self._conn = self._lent, None, None
        if lent is not None:
            await _end(lent)

    def _look_after(self, seconds: float) -> None:
        if self._look_again is None:
            self._look_again = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._look_again = None
        rest = self._used_at + self._idle_s - asyncio.get_running_loop().time()
        if self._used or rest > 0:
            self._look_after(max(rest, self._idle_s / 10))
        elif self._lent is not None:
            # Taken away before the task starts: from here on the next user is lent another one.
            lent, self._lent, self._conn = self._lent, None, None
            self._return = asyncio.create_task(_end(lent), name="give back a connection")


async def _end(lent: AbstractAsyncContextManager[asyncpg.Connection]) -> None:
    await lent.__aexit__(None, None, None)
