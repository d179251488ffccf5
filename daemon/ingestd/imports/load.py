"""The transaction of a load: rows, rejects, counts and the completion of its job appear together, or none of them."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg

from ingestd.errors import DatabaseUnreachable, IngestdError, StaleClaim
from ingestd.imports import mapping
from ingestd.imports.columns import NeedsText, arrow_type
from ingestd.imports.feed import Feed, Lane
from ingestd.imports.formats.csv import CsvFile
from ingestd.imports.header import Header, read_header
from ingestd.imports.merge import ROW_ERRORS, Merged, Merger, is_row_error
from ingestd.imports.new_table import Made, make_table
from ingestd.imports.rejects import Reject, RejectBook, readable
from ingestd.imports.request import FileProblem, LoadOutcome, LoadRequest, LoadStatus, LoadTrouble, TooManyRejects
from ingestd.imports.shape import Column, Table
from ingestd.imports.sql import STAGING_SCHEMA, Staging, split
from ingestd.imports.store import loads
from ingestd.jobs.model import State
from ingestd.jobs.store.ack import Result, ack
from ingestd.postgres.outage import OUTAGE, one_line
from ingestd.postgres.session import has_ended, takes_no_writes

Connect = Callable[[], Awaitable[asyncpg.Connection]]
Report = Callable[[float, str], None]
# Trying again later may help: the outage, a conflict with somebody else, a full disk, a lock held too long.
TRANSIENT: tuple[type[BaseException], ...] = (
    *OUTAGE,
    asyncpg.TransactionRollbackError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.LockNotAvailableError,
    DatabaseUnreachable,
    LoadTrouble,
    asyncpg.ReadOnlySQLTransactionError,
)
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index", "c": "a type"}
_CLOSE_S = 5.0


async def run(request: LoadRequest, connect: Connect, report: Report) -> LoadOutcome:
    """Load one file to its end; the outcome returned is committed.

    Args:
        connect: opens a connection of the load's own.
        report: called from any thread with (fraction done, a few words).

    Raises:
        LoadTrouble: nothing was written; trying again may help.
        DatabaseUnreachable: likewise, because Postgres does not answer.
        StaleClaim: the job belongs to somebody else by now; nothing was written.
    """
    conn = await connect()
    load = Load(conn, request, report)
    try:
        return await load.run()
    except StaleClaim:
        raise
    except FileProblem as problem:
        return await load.fail(problem, problem.message)
    except TRANSIENT as error:
        return await _after_trouble(load, error, connect)
    except asyncpg.PostgresError as error:
        return await load.fail(error, f"Postgres refuses the load: {one_line(error)}")
    except Exception as error:  # noqa: BLE001 - our bug: it must not be retried blindly, and the load must say so
        traceback.print_exc(file=sys.stderr)
        return await load.fail(error, f"internal error, please report it: {type(error).__name__}: {error}")
    finally:
        load.close()
        await _close(conn)


async def _after_trouble(load: Load, error: BaseException, connect: Connect) -> LoadOutcome:
    """Find out what trouble left behind: if only the answer to COMMIT was lost, the load is done."""
    text = one_line(error)
    lost = isinstance(error, (*OUTAGE, asyncpg.ReadOnlySQLTransactionError)) and await load.has_lost_connection()
    conn = await connect()
    try:
        done = await loads.finished(conn, load.request.load_id)
        if done is not None:
            return done
        if lost:
            # Whoever ended the connection, it was not this load: no attempt is spent on it.
            raise DatabaseUnreachable(f"load {load.request.load_id} lost its connection: {text}") from error
        if not load.request.last_attempt:
            raise LoadTrouble(f"load {load.request.load_id} was interrupted: {text}") from error
        return await load.fail(error, f"gave up after {load.request.attempt} attempts: {text}", conn)
    finally:
        await _close(conn)


async def _close(conn: asyncpg.Connection) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await conn.close()
    except OUTAGE:
        conn.terminate()


class Load:
    """One try at one load, on one connection."""

    def __init__(self, conn: asyncpg.Connection, request: LoadRequest, report: Report) -> None:
        self.request = request
        self._conn = conn
        self._report = report
        self._path = Path(request.path)
        self._began = time.monotonic()
        self._made: Made | None = None
        self._book = RejectBook(request.max_rejects)
        self._read = 0
        self._copied = 0
        self._reached = 0

    async def run(self) -> LoadOutcome:
        """Run to the commit."""
        request = self.request
        header = self._read_header()
        file = CsvFile(self._path, header, null=request.null, max_record_bytes=request.max_record_bytes)
        no_table = await loads.read_table(self._conn, request.target) is None
        if no_table:
            self._made = await make_table(self._conn, request, file, header, self._saw)
        async with self._conn.transaction():
            await loads.begin(self._conn, request.target)
            done = await loads.finished(self._conn, request.load_id)
            if done is not None:
                return done
            # A table that was not there holds nothing, whatever was loaded before.
            before = None if no_table or request.force else await loads.loaded_before(self._conn, request)
            if before is not None:
                outcome = self._outcome("skipped", reason=f"already loaded by load {before}", duplicate_of=before)
            else:
                outcome = await self._load(file, header)
                await loads.write_rejects(self._conn, request.load_id, self._book)
            return await self._complete(self._conn, outcome)

    async def fail(self, error: BaseException, reason: str, conn: asyncpg.Connection | None = None) -> LoadOutcome:
        """End the load as failed, for good, keeping its rejects; its own transaction, as fenced as the other."""
        name = error.slug if isinstance(error, IngestdError) else type(error).__name__
        outcome = replace(
            self._outcome("failed", reason=reason[:2000]),
            read=self._read,
            rejected=self._book.count,
            error={"class": name, "message": reason[:2000]},
        )
        conn = conn or self._conn
        try:
            async with conn.transaction():
                await loads.begin(conn, self.request.target)
                if self._made is Made.NEW and await self._take_table_back(conn):
                    outcome = replace(outcome, created_table=False)
                await loads.write_rejects(conn, self.request.load_id, self._book)
                return await self._complete(conn, outcome)
        except TRANSIENT as trouble:
            raise LoadTrouble(f"load {self.request.load_id} failed, and that could not be written: {trouble}") from trouble

    async def _take_table_back(self, conn: asyncpg.Connection) -> bool:
        """Drop the table that this load made: its types came from a file that was no good."""
        try:
            async with conn.transaction():
                return await loads.drop_if_empty(conn, self.request.load_id, self.request.target)
        except asyncpg.PostgresError:  # something depends on it already: it stays
            return False

    async def has_lost_connection(self) -> bool:
        """Whether its connection has ended under it, or leads to a server that takes no writes by now."""
        return takes_no_writes(self._conn) or await has_ended(self._conn)

    def close(self) -> None:
        """Forget the rejects."""
        self._book.close()

    def _read_header(self) -> Header:
        try:
            size = self._path.stat().st_size
            with self._path.open("rb") as file:
                head = file.read(self.request.max_record_bytes + 4)
        except OSError as error:
            raise FileProblem(f"the received bytes of {self.request.file_name} cannot be read: {error.strerror}") from None
        if size != self.request.size:
            raise FileProblem(f"the received file has {size:,} bytes where {self.request.size:,} were received")
        return read_header(head, delimiter=self.request.delimiter)

    async def _load(self, file: CsvFile, header: Header) -> LoadOutcome:
        found = await loads.read_table(self._conn, self.request.target)
        if found is None and self._made is Made.NO_RECORDS:
            remark = f"the file holds no records: {self.request.target} was not created"
            return self._outcome("succeeded", reason=remark)
        if found is None:
            raise LoadTrouble(f"{self.request.target} was dropped while it was being loaded")
        table, kind = found
        if kind not in ("r", "p"):
            raise FileProblem(f"{self.request.target} is {_KINDS.get(kind, 'no table')}: an import needs a table")
        columns = mapping.fill(table, header, self.request)
        if self.request.mode != "append":
            mapping.check_key(table, self.request)
        as_text = frozenset(column.name for column in columns if arrow_type(column) is None)
        direct = self.request.mode == "append" and not table.partitioned and not as_text
        while True:
            try:
                async with self._conn.transaction():
                    return await self._pass(file, table, columns, as_text, direct)
            except NeedsText as need:
                as_text, direct = as_text | {need.name}, False
            except ROW_ERRORS as error:
                if not direct or not is_row_error(error):
                    raise
                direct = False  # some row breaks a constraint: through staging it can be found

    async def _pass(self, file: CsvFile, table: Table, columns: tuple[Column, ...], as_text: frozenset[str], direct: bool) -> LoadOutcome:
        """Bring the file in, one time through it."""
        self._book.close()
        self._book = RejectBook(self.request.max_rejects)
        staging = Staging(self.request.load_id, table.target, columns, as_text, self.request.key, table.provenance)
        lane = Lane(
            columns,
            as_text,
            self.request.key,
            load_id=self.request.load_id if direct and table.provenance else None,
            numbered=table.provenance or not direct,
        )
        if not direct:
            await loads.run(self._conn, staging.create)
        feed = await self._copy(file, lane, table.target if direct else f"{STAGING_SCHEMA}.{staging.table}")
        if feed.read != feed.good + self._book.count:
            raise RuntimeError(f"{feed.read} records read, {feed.good} good, {self._book.count} rejected: they do not add up")
        if feed.read and self._reached != self.request.size:
            raise RuntimeError(f"{self._reached} of {self.request.size} bytes were read")
        self._check_ratio()
        if direct:
            return self._counted(feed, Merged(inserted=feed.good if not table.triggers else self._copied), 0)
        return await self._merge(file, feed, staging, table)

    async def _copy(self, file: CsvFile, lane: Lane, into: str) -> Feed:
        def on_slice(end: int, read: int) -> None:
            self._read, self._reached = read, end
            self._loaded(end, read)

        feed = Feed(file, lane, null=self.request.null, book=self._book, on_slice=on_slice)
        schema, table = split(into)
        try:
            async with aclosing(feed.stream()) as stream:
                self._copied = await loads.copy_in(self._conn, schema, table, lane.names, stream)
        except Exception:
            if isinstance(feed.error, OSError):
                raise LoadTrouble(f"cannot read {self.request.file_name}: {feed.error}") from feed.error
            if feed.error is not None:
                raise feed.error from None
            raise
        self._read = feed.read
        if schema == STAGING_SCHEMA and self._copied != feed.good:
            raise RuntimeError(f"{feed.good} rows sent, {self._copied} staged")
        return feed

    async def _merge(self, file: CsvFile, feed: Feed, staging: Staging, table: Table) -> LoadOutcome:
        late: list[tuple[int, str | None, str, str]] = []
        merger = Merger(
            self._conn,
            staging,
            table,
            ascending=feed.ascending,
            allowed=self._allowed(feed.read) - self._book.count,
            rejected=lambda *what: late.append(what),
        )
        self._report(0.9, f"{feed.good:,} rows into {table.target}")
        try:
            invalid = await merger.refuse_invalid_texts()
            staged = feed.good - invalid
            merged, refused = await (merger.append(staged) if self.request.mode == "append" else merger.upsert(staged))
            # With rejects, rows that seem to be missing may only be misspelt: then nothing is taken away.
            if self.request.mode == "replace" and staged and not late and not self._book.count:
                merged.deleted = await merger.delete_missing()
        finally:
            self._keep_late(file, late)
        await loads.run(self._conn, staging.drop)
        return self._counted(feed, merged, invalid + refused)

    def _keep_late(self, file: CsvFile, late: list[tuple[int, str | None, str, str]]) -> None:
        raw = file.raw_records([record for record, *_ in late]) if late else {}
        for record, column, code, reason in sorted(late, key=lambda item: item[0]):
            self._book.add(Reject(record, column, code, reason, readable(raw[record])))

    def _counted(self, feed: Feed, merged: Merged, refused: int) -> LoadOutcome:
        self._check_ratio()
        unchanged = feed.good - refused - merged.inserted - merged.updated - merged.superseded
        outcome = replace(
            self._outcome("partial" if self._book.count else "succeeded"),
            read=feed.read,
            inserted=merged.inserted,
            updated=merged.updated,
            unchanged=unchanged,
            rejected=self._book.count,
            superseded=merged.superseded,
            deleted=merged.deleted,
            reason=self._remark(feed),
        )
        if unchanged < 0 or not outcome.adds_up:
            raise RuntimeError(f"the counts do not add up: {outcome.counts}")
        return outcome

    def _remark(self, feed: Feed) -> str | None:
        if self.request.mode == "replace" and not feed.good:
            return "the file holds no good records: nothing was deleted"
        if self.request.mode == "replace" and self._book.count:
            return "rows that the file lacks were kept, because some of its records were rejected"
        return None

    def _allowed(self, read: int) -> int:
        return min(self.request.max_rejects, int(self.request.max_reject_ratio * read + 1e-9))

    def _check_ratio(self) -> None:
        rejected = self._book.count
        if rejected > self._allowed(self._read):
            first = next(iter(self._book))
            raise TooManyRejects(
                f"{rejected:,} of {self._read:,} records rejected, more than max_reject_ratio {self.request.max_reject_ratio:g} "
                f"allows; nothing was loaded. The first: record {first.record:,}: {first.reason}"
            )

    def _outcome(self, status: LoadStatus, *, reason: str | None = None, duplicate_of: int | None = None) -> LoadOutcome:
        return LoadOutcome(
            status,
            reason=reason,
            duplicate_of=duplicate_of,
            created_table=self._made is Made.NEW,
            duration_ms=round((time.monotonic() - self._began) * 1000),
        )

    async def _complete(self, conn: asyncpg.Connection, outcome: LoadOutcome) -> LoadOutcome:
        """Write the outcome and ack the job. The fence is the last statement: rescue and cancel never wait for a load."""
        if not await loads.finish(conn, self.request.load_id, outcome):
            raise StaleClaim(f"load {self.request.load_id} is final already, or gone")
        if self.request.job_id not in await ack(conn, [self._result(outcome)]):
            raise StaleClaim(f"job {self.request.job_id} belongs to somebody else; load {self.request.load_id} was rolled back")
        return outcome

    def _result(self, outcome: LoadOutcome) -> Result:
        ended = datetime.now(UTC)
        started = ended - timedelta(milliseconds=outcome.duration_ms)
        failed = outcome.status == "failed"
        counts = {"succeeded": outcome.inserted + outcome.updated + outcome.unchanged, "failed": outcome.rejected, "skipped": 0}
        return Result(
            self.request.job_id,
            UUID(self.request.claim),
            State.FAILED if failed else State.SUCCEEDED,
            partial=outcome.status == "partial",
            result={"load": self.request.load_id, "status": outcome.status, **outcome.counts, "deleted": outcome.deleted},
            error=outcome.error,
            reason=outcome.reason,
            counts=counts,
            started_at=started,
            duration_ms=outcome.duration_ms,
            attempt={
                "n": self.request.attempt,
                "outcome": "failed" if failed else "succeeded",
                "started_at": started,
                "ended_at": ended,
                "duration_ms": outcome.duration_ms,
                "error": outcome.error,
            },
        )

    def _saw(self, end: int, records: int) -> None:
        self._report(0.45 * end / self.request.size, f"looking at {records:,} records")

    def _loaded(self, end: int, records: int) -> None:
        share = end / self.request.size
        self._report(0.45 + 0.45 * share if self._made else 0.9 * share, f"loading {records:,} records")
