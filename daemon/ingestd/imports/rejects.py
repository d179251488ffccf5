"""Input rows that did not load: collected while parsing, bounded in memory, written with the load."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import orjson

from ingestd.imports.request import TooManyRejects

IN_MEMORY = 10_000
IN_MEMORY_CHARS = 8 << 20
LONGEST_RAW = 64 << 10
LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Reject:
    """One record that did not load.

    Args:
        record: its number in the file, the header not counted, from 1.
        column: the first column at fault, if it is one column's fault.
        code: `missing_cell extra_cell blank_row end_marker bad_quoting bad_encoding too_long bad_value missing_value constraint`.
        reason: for people.
        raw: the record as it came.
    """

    record: int
    column: str | None
    code: str
    reason: str
    raw: str

    def row(self, load_id: int) -> tuple[int, int, str | None, str, str, str]:
        """As a row of `ingestd.reject`."""
        return (load_id, self.record, self.column, self.code, self.reason, self.raw)


def readable(raw: bytes) -> str:
    """Bytes of a record as text that Postgres can hold: what is not UTF-8, and NUL, is shown escaped."""
    cut = raw[:LONGEST_RAW].rstrip(b"\r\n")
    text = cut.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    return text if len(raw) <= LONGEST_RAW else f"{text}… ({len(raw):,} bytes)"


class RejectBook:
    """The rejects of one load; beyond a few thousand they lie in a temporary file.

    Args:
        limit: more than this many end the load.
    """

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit
        self._recent: list[Reject] = []
        self._chars = 0
        self._spill: IO[bytes] | None = None

    def add(self, reject: Reject) -> None:
        """Keep one.

        Raises:
            TooManyRejects: it is one too many; those before it stay kept.
        """
        if self.count >= self._limit:
            raise TooManyRejects(f"more than {self._limit:,} records rejected (max_rejects); nothing was loaded")
        self.count += 1
        self._recent.append(reject)
        self._chars += len(reject.raw) + len(reject.reason)
        if len(self._recent) >= IN_MEMORY or self._chars >= IN_MEMORY_CHARS:
            self._write_out()

    def __iter__(self) -> Iterator[Reject]:
        if self._spill is not None:
            self._spill.seek(0)
            for line in self._spill:
                yield Reject(*orjson.loads(line))
            self._spill.seek(0, 2)
        yield from self._recent

    def close(self) -> None:
        """Forget everything."""
        self._recent = []
        if self._spill is not None:
            self._spill.close()
            self._spill = None

    def _write_out(self) -> None:
        if self._spill is None:
            self._spill = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close(), or with the process
        for item in self._recent:
            line = orjson.dumps((item.record, item.column, item.code, item.reason, item.raw))
            self._spill.write(line + b"\n")
        self._recent, self._chars = [], 0
