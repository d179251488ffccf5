"""From the staging table into the target: casts checked, twins resolved, rows merged, rejects found one by one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg

from ingestd.imports.rejects import LONGEST_REASON
from ingestd.imports.request import TooManyRejects
from ingestd.imports.shape import Table
from ingestd.imports.sql import Staging
from ingestd.imports.store import loads

# What a single row can be guilty of: constraints, data exceptions, a trigger's RAISE, a twin in the same file, a value too
# large for an index.
ROW_ERRORS = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.RaiseError,
    asyncpg.CardinalityViolationError,
    asyncpg.ProgramLimitExceededError,
)


def is_row_error(error: BaseException) -> bool:
    """Whether Postgres refused a row; the driver raises the same classes for mistakes of ours, which must not look like that."""
    return isinstance(error, ROW_ERRORS) and (error.severity is not None or isinstance(error, asyncpg.CardinalityViolationError))


@dataclass
class Merged:
    """What the staged records became."""

    inserted: int = 0
    updated: int = 0
    superseded: int = 0
    deleted: int = 0

    def add(self, other: Merged) -> None:
        """Add the counts of another part."""
        self.inserted += other.inserted
        self.updated += other.updated


class Merger:
    """Moves one load's staged records into their table, within its transaction.

    Args:
        conn: in the load's transaction.
        staging: the statements.
        table: the target.
        ascending: the keys came strictly ascending, so that no two records share one.
        allowed: more rejects than this end the load.
        rejected: called for each record that Postgres refuses: (record, column, code, reason).
    """

    def __init__(
        self,
        conn: asyncpg.Connection,
        staging: Staging,
        table: Table,
        *,
        ascending: bool,
        allowed: int,
        rejected: Callable[[int, str | None, str, str], None],
    ) -> None:
        self._conn = conn
        self._sql = staging
        self._table = table
        self._ascending = ascending
        self._allowed = allowed
        self._rejected = rejected
        self._found = 0

    async def refuse_invalid_texts(self) -> int:
        """Take records out whose texts Postgres does not accept; returns how many."""
        if not self._sql.as_text:
            return 0
        rows = await loads.fetch(self._conn, self._sql.invalid_texts, self._allowed + 1)
        for row in rows:
            self._refuse(row["record"], row["name"], "bad_value", f'{row["name"]}: "{row["value"][:200]}": {row["message"]}')
        if rows:
            await loads.run(self._conn, self._sql.remove_records, [row["record"] for row in rows])
        return len(rows)

    async def append(self, staged: int) -> tuple[Merged, int]:
        """Insert every staged record; returns the counts and how many records were refused."""
        return await self._whole_or_piecemeal(staged, self._insert)

    async def upsert(self, staged: int) -> tuple[Merged, int]:
        """Merge the staged records by key; returns the counts and how many records were refused.

        A record that a later one with the same key replaces is superseded. Postgres does not always notice such twins: if
        the last one equals the row that is there, only the earlier one acts, wrongly. So whenever something stayed unchanged
        and the keys did not come in order, they are looked for.
        """
        try:
            async with self._conn.transaction():
                done = await self._merge(None)
                suspicious = done.inserted + done.updated < staged and not self._ascending
                if suspicious and await loads.holds(self._conn, self._sql.has_twins):
                    raise asyncpg.CardinalityViolationError("two records with one key")
            return done, 0
        except ROW_ERRORS as error:
            if not is_row_error(error):
                raise
            superseded = 0 if self._ascending else await loads.run(self._conn, self._sql.drop_twins)
        done, refused = await self._whole_or_piecemeal(staged, self._merge)
        done.superseded = superseded
        return done, refused

    async def delete_missing(self) -> int:
        """Remove rows that the file no longer has."""
        return await loads.run(self._conn, self._sql.delete_missing)

    async def _whole_or_piecemeal(self, staged: int, act: Callable[[tuple[int, int] | None], Awaitable[Merged]]) -> tuple[Merged, int]:
        """All at once; if some record is refused, halves of halves until the guilty ones stand alone."""
        if not staged:
            return Merged(), 0
        try:
            async with self._conn.transaction():
                return await act(None), 0
        except ROW_ERRORS as error:
            if not is_row_error(error):
                raise
            await loads.run(self._conn, self._sql.index_records)
        bounds = await loads.fetch(self._conn, self._sql.bounds)
        done = Merged()
        refused = await self._piecemeal(bounds[0]["first"], bounds[0]["last"], act, done)
        return done, refused

    async def _piecemeal(self, first: int, last: int, act: Callable[[tuple[int, int] | None], Awaitable[Merged]], done: Merged) -> int:
        try:
            async with self._conn.transaction():
                part = await act((first, last))
        except ROW_ERRORS as error:
            if not is_row_error(error):
                raise
            if first == last:
                self._refuse(first, _guilty_column(error), "constraint", _plain(error))
                await loads.run(self._conn, self._sql.remove_records, [first])
                return 1
            middle = (first + last) // 2
            return await self._piecemeal(first, middle, act, done) + await self._piecemeal(middle + 1, last, act, done)
        done.add(part)
        return 0

    async def _insert(self, between: tuple[int, int] | None) -> Merged:
        args = between or ()
        return Merged(inserted=await loads.run(self._conn, self._sql.insert(between=bool(between)), *args))

    async def _merge(self, between: tuple[int, int] | None) -> Merged:
        args, ranged = between or (), between is not None
        if self._table.triggers or not await loads.tallies(self._conn):
            update = self._sql.update(ranged)
            updated = await loads.run(self._conn, update, *args) if update else 0
            return Merged(await loads.run(self._conn, self._sql.insert_missing(ranged), *args), updated)
        inserted, updated = await loads.tally(self._conn, self._table.oid)
        await loads.run(self._conn, self._sql.merge(ranged), *args)
        inserted_after, updated_after = await loads.tally(self._conn, self._table.oid)
        return Merged(inserted_after - inserted, updated_after - updated)

    def _refuse(self, record: int, column: str | None, code: str, reason: str) -> None:
        self._found += 1
        if self._found > self._allowed:
            raise TooManyRejects("more records rejected than max_reject_ratio allows; nothing was loaded")
        self._rejected(record, column, code, reason[:LONGEST_REASON])


def _guilty_column(error: BaseException) -> str | None:
    return getattr(error, "column_name", None) or None


def _plain(error: BaseException) -> str:
    detail = getattr(error, "detail", None)
    message = getattr(error, "message", None) or str(error)
    return f"{message}: {detail}" if detail else message
