"""Parses, checks and encodes a file in a thread, as the binary stream that one COPY takes in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pgpq
import pyarrow as pa
import pyarrow.compute as pc

from ingestd.imports.columns import Converter
from ingestd.imports.formats.csv import CsvFile, Slice
from ingestd.imports.rejects import LONGEST_REASON, Reject, RejectBook, readable
from ingestd.imports.shape import PROVENANCE, Column

CHUNK = 256 << 10
IN_FLIGHT = 8
STALLED_S = 300.0
# How a binary COPY stream begins and ends.
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"


class FeedStopped(Exception):
    """The stream ended early. Its text is short on purpose: a long one would block the driver's COPY for ever."""


@dataclass(frozen=True)
class Lane:
    """Where the rows go and how.

    Args:
        columns: what each column of the file fills, in file order.
        as_text: columns sent as text, for Postgres to cast from the staging table.
        key: columns whose order is watched.
        load_id: written beside each row if the stream goes straight into a table with provenance columns.
        numbered: each row carries its record number.
    """

    columns: tuple[Column, ...]
    as_text: frozenset[str] = frozenset()
    key: tuple[str, ...] = ()
    load_id: int | None = None
    numbered: bool = True

    @property
    def names(self) -> list[str]:
        """The columns of the COPY."""
        names = [column.name for column in self.columns]
        if self.load_id is not None:
            names.append(PROVENANCE[0])
        if self.numbered:
            names.append(PROVENANCE[1])
        return names


class Feed:
    """One pass over the file.

    Args:
        file: what to read.
        lane: where it goes.
        null: cell texts that mean null.
        book: takes the rejects.
        on_slice: called in the thread after each slice with (offset reached in bytes, records read).
    """

    def __init__(self, file: CsvFile, lane: Lane, *, null: Sequence[str], book: RejectBook, on_slice: Callable[[int, int], None]) -> None:
        self.read = 0
        self.good = 0
        self.ascending = all(column.exact for column in lane.columns if column.name in lane.key)
        self.error: BaseException | None = None
        self._file = file
        self._lane = lane
        self._book = book
        self._on_slice = on_slice
        self._converters = [Converter(column, null, as_text=column.name in lane.as_text) for column in lane.columns]
        self._last_key: list[Any] | None = None
        self._counting = pa.array([], pa.int64())
        self._room = threading.Semaphore(IN_FLIGHT)
        self._stopped = threading.Event()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The stream; must be closed. When it ends early, `error` says why."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        thread = threading.Thread(target=self._work, args=(loop, queue), name="feed", daemon=True)
        thread.start()
        try:
            while True:
                async with asyncio.timeout(STALLED_S):
                    chunk = await queue.get()
                self._room.release()
                if chunk is None:
                    break
                yield chunk
        finally:
            self._stopped.set()
            self._room.release()
            await asyncio.to_thread(thread.join)
        if self.error is not None:
            raise FeedStopped(type(self.error).__name__)

    def _work(self, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[bytes | None]) -> None:
        def put(chunk: bytes | None) -> None:
            self._room.acquire()
            if self._stopped.is_set():
                raise FeedStopped("nobody takes it any more")
            loop.call_soon_threadsafe(queue.put_nowait, chunk)

        try:
            self._produce(put)
        except FeedStopped:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the loop, which raises it in the load
            self.error = error
        if not self._stopped.is_set():
            loop.call_soon_threadsafe(queue.put_nowait, None)

    def _produce(self, put: Callable[[bytes | None], None]) -> None:
        encoder = _Encoder()
        for part in self._file.slices():
            self.read += part.records
            batch = self._batch(part)
            _put_in_chunks(put, encoder.encode(batch))
            self._on_slice(part.end, self.read)
        _put_in_chunks(put, encoder.finish())

    def _batch(self, part: Slice) -> Any:
        """The good rows of a slice, typed; the others go into the book, in order."""
        values: list[Any] = []
        faults: dict[int, tuple[int, bool]] = {}  # row -> position of its first bad column, and whether a value is missing
        for position, (converter, texts) in enumerate(zip(self._converters, part.cells, strict=True)):
            typed, bad = converter.convert(texts)
            for row in bad:
                faults.setdefault(row, (position, False))
            if converter.column.not_null and typed.null_count:
                for row in pc.indices_nonzero(pc.is_null(typed)).to_pylist():
                    faults.setdefault(row, (position, True))
            values.append(typed)
        self._note_rejects(part, faults)
        arrays, names = values, [column.name for column in self._lane.columns]
        rows = len(part.numbers)
        if self._lane.load_id is not None:
            arrays.append(pa.repeat(pa.scalar(self._lane.load_id, pa.int64()), rows))
            names.append(PROVENANCE[0])
        if self._lane.numbered:
            arrays.append(self._numbers(part))
            names.append(PROVENANCE[1])
        batch = pa.RecordBatch.from_arrays(arrays, names=names)
        if faults:
            rejected = pa.array([part.numbers[row] for row in faults], pa.int64())
            batch = batch.filter(pc.invert(pc.is_in(self._numbers(part), value_set=rejected)))
        self.good += batch.num_rows
        self._watch_order(batch)
        return batch

    def _numbers(self, part: Slice) -> Any:
        """The record numbers of a slice, as an array."""
        numbers = part.numbers
        if not isinstance(numbers, range):
            return pa.array(numbers, pa.int64())
        if len(self._counting) < len(numbers):
            self._counting = pa.array(range(len(numbers)), pa.int64())
        return pc.add(self._counting.slice(0, len(numbers)), numbers.start)

    def _note_rejects(self, part: Slice, faults: dict[int, tuple[int, bool]]) -> None:
        found = list(part.rejects)
        for row, (position, missing) in faults.items():
            converter, text = self._converters[position], part.cells[position][row].as_py()
            number, name = part.numbers[row], converter.column.name
            if missing:
                code, reason = "missing_value", f"{name} is empty, and must have a value"
            else:
                code, reason = "bad_value", f"{name}: {converter.explain(text)}"
            found.append(Reject(number, name, code, reason[:LONGEST_REASON], readable(part.raw(number))))
        for reject in sorted(found, key=lambda item: item.record):
            self._book.add(reject)

    def _watch_order(self, batch: Any) -> None:
        """Notice whether the keys still come strictly ascending: then no two records can share one."""
        if not self._lane.key or not self.ascending or not batch.num_rows:
            return
        columns = [batch.column(batch.schema.names.index(name)) for name in self._lane.key]
        if self._last_key is not None:
            columns = [
                pa.concat_arrays([last.cast(column.type), column])
                for last, column in zip(self._last_key, columns, strict=True)
            ]  # fmt: skip
        self._last_key = [column.slice(len(column) - 1) for column in columns]
        size = len(columns[0])
        rises = pa.repeat(pa.scalar(False), size - 1)
        for column in reversed(columns):
            before, after = column.slice(0, size - 1), column.slice(1)
            rises = pc.or_(pc.less(before, after), pc.and_(pc.equal(before, after), rises))
        self.ascending = pc.all(rises).as_py() is not False


def _put_in_chunks(put: Callable[[bytes | None], None], data: bytes) -> None:
    for at in range(0, len(data), CHUNK):
        put(data[at : at + CHUNK])


class _Encoder:
    """Encodes batches as one binary COPY stream, though their schema may change: the scale of a numeric can grow."""

    def __init__(self) -> None:
        self._schema: Any = None
        self._encoder: Any = None

    def encode(self, batch: Any) -> bytes:
        """Bytes of the stream so far not returned; rows may be held back until a later call."""
        before = b""
        if batch.schema != self._schema:
            first = self._encoder is None
            before = b"" if first else self._encoder.finish()[: -len(_TRAILER)]
            self._schema, self._encoder = batch.schema, pgpq.ArrowToPostgresBinaryEncoder(batch.schema)
            header = self._encoder.write_header()
            before += header if first else b""
        return before + bytes(self._encoder.write_batch(batch))

    def finish(self) -> bytes:
        """The rest of the stream; all of an empty one if there never was a batch."""
        return _HEADER + _TRAILER if self._encoder is None else bytes(self._encoder.finish())
