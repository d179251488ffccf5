"""The tokens as one node knows them: all of them in memory, so that no request asks the database who its caller is.

A flood of wrong tokens costs the database nothing, and while Postgres is away the daemon still knows whom to tell how it is. A change
is told to all nodes by NOTIFY; the book is read again every few seconds besides, and once more before a well-formed token that it
does not know is refused, for that one may be a second old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from ingestd.access import store, tokens
from ingestd.access.actions import KEY
from ingestd.access.roles import Role
from ingestd.errors import DatabaseUnreachable
from ingestd.postgres.outage import OUTAGE, reason
from ingestd.postgres.pool import Database

READ_EVERY_S = 5.0
READ_EVERY_WITHOUT_LISTENING_S = 0.5
READ_TIMEOUT_S = 5.0
LOOK_AGAIN_S = 0.25
USE_NOTED_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Known:
    """One token as the book has it.

    Args:
        ends_at: monotonic seconds at which it expires; None: never.
    """

    id: int
    name: str
    role: Role
    scopes: frozenset[str]
    revoked_at: datetime | None
    expires_at: datetime | None
    ends_at: float | None

    @property
    def expired(self) -> bool:
        """Whether its time is over, by the database's clock when it was read."""
        return self.ends_at is not None and time.monotonic() >= self.ends_at


class TokenBook:
    """All tokens of the database, read whole and kept fresh.

    Args:
        db: where they are.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._key = b""
        self._known: dict[bytes, Known] = {}
        self._tried_at = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._used: dict[int, str] = {}
        self._noted: dict[int, float] = {}
        self.wake: Callable[[], None] = lambda: None
        self.on_ended: Callable[[frozenset[int]], None] = lambda _: None

    @property
    def any(self) -> bool:
        """Whether tokens are defined. An expired one counts, and so does not knowing: nothing may open by itself."""
        return not self._key or any(known.revoked_at is None for known in self._known.values())

    @property
    def ever(self) -> bool:
        """Whether anybody ever made a token that is not forgotten yet, as far as is known."""
        return not self._key or bool(self._known)

    async def poll(self) -> float:
        """Read the book again, and note which tokens were used."""
        await self.refresh()
        # What was begun with a token ends with it: a stream of events may have been open for days.
        self.on_ended(frozenset(known.id for known in self._known.values() if known.revoked_at is not None or known.expired))
        await self._note_use()
        return READ_EVERY_WITHOUT_LISTENING_S if self._db.sessionless else READ_EVERY_S

    async def refresh(self, since: float | None = None) -> None:
        """Read the book, together with whoever wants that too.

        Args:
            since: monotonic seconds; a reading that began after that is fresh enough. None: now.

        Raises:
            DatabaseUnreachable: it cannot be read now; what was known stays.
        """
        wanted = time.monotonic() if since is None else since
        while self._reading is not None and not self._reading.done():
            await asyncio.wait({self._reading})
        if self._reading is None or self._tried_at < wanted:
            self._tried_at = time.monotonic()
            self._reading = asyncio.create_task(self._read(), name="tokens")
            # Nobody may be left to hear of an error: the next reading tells of its own.
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        began = self._tried_at
        try:
            async with asyncio.timeout(READ_TIMEOUT_S), self._db.services() as conn:
                key = self._key or await store.secret(conn, KEY)
                rows = await store.token_book(conn)
        except (*OUTAGE, asyncpg.PostgresError) as error:
            raise DatabaseUnreachable(f"tokens cannot be looked up: {reason(error)}") from error
        self._key, self._known = key, {bytes(row["hash"]): _known(row, began) for row in rows}

    async def find(self, text: str) -> Known | None:
        """The token of that text, in force or not; None where nobody ever made it.

        Args:
            text: well formed, with the right checksum.

        Raises:
            DatabaseUnreachable: it is unknown, and whether it is new cannot be found out now.
        """
        arrived = time.monotonic()
        known = self._look_up(text)
        if known is None:
            # All who ask in vain wait for the same reading, and there are not many of those a second.
            await asyncio.sleep(max(self._tried_at + LOOK_AGAIN_S - arrived, 0))
            await self.refresh(arrived)
            known = self._look_up(text)
        return known

    def _look_up(self, text: str) -> Known | None:
        return self._known.get(tokens.digest(self._key, text)) if self._key else None

    def still(self, token_id: int | None) -> bool:
        """Whether what somebody came in with still lets them in; None: they came without a token of the database."""
        return token_id is None or any(k.id == token_id and k.revoked_at is None and not k.expired for k in self._known.values())

    def used(self, token: Known, address: str) -> None:
        """Remember that a token let somebody in; it is written down once a minute."""
        now = time.monotonic()
        if now - self._noted.get(token.id, -USE_NOTED_EVERY_S) >= USE_NOTED_EVERY_S:
            self._noted[token.id] = now
            self._used[token.id] = address
            self.wake()

    async def _note_use(self) -> None:
        used, self._used = self._used, {}
        if not used:
            return
        async with self._db.services() as conn:
            await store.tokens_used(conn, used)


def _known(row: asyncpg.Record, began: float) -> Known:
    return Known(
        id=row["id"],
        name=row["name"],
        role=row["role"],
        scopes=frozenset(row["scopes"]),
        revoked_at=row["revoked_at"],
        expires_at=row["expires_at"],
        # By when the question was asked: a token ends a moment early rather than late.
        ends_at=None if row["left_s"] is None else began + row["left_s"],
    )
