"""What a worker's job functions write down: when the first and the last of them ran, how many, and how long pings took.

One small file a process, mapped into memory, so that counting costs a fraction of a microsecond. Standard library only:
the peers' own interpreters import this. The clock is CLOCK_MONOTONIC, the same for all processes of a machine.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

_LAYOUT = struct.Struct("<qqq")  # first, last, count


class Meter:
    """The counters of this process; made when the first job runs, hence after any fork."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._map: mmap.mmap | None = None
        self._first = self._count = 0

    def hit(self) -> None:
        """A job's function has begun."""
        now = time.monotonic_ns()
        if self._map is None:
            self._open(now)
        self._count += 1
        _LAYOUT.pack_into(self._map, 0, self._first, now, self._count)  # type: ignore[arg-type]

    def ping(self, sent_ns: int) -> None:
        """A job that carries the moment before it was enqueued has begun."""
        took = time.monotonic_ns() - int(sent_ns)
        with (Path(self._folder) / f"ping-{os.getpid()}").open("a") as file:
            file.write(f"{took}\n")

    def _open(self, now: int) -> None:
        self._first = now
        path = Path(self._folder) / f"count-{os.getpid()}"
        path.write_bytes(bytes(_LAYOUT.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)


def worker_meter() -> Meter:
    """The meter of the folder that the benchmark has named."""
    return Meter(os.environ.get("BENCH_METER", "/tmp"))


def read_counts(folder: Path) -> tuple[int, int, int]:
    """First start, last start (ns of the monotonic clock) and number of jobs, over all processes."""
    found = [_LAYOUT.unpack(data) for file in folder.glob("count-*") if len(data := file.read_bytes()) == _LAYOUT.size]
    found = [entry for entry in found if entry[2]]
    if not found:
        return 0, 0, 0
    return min(e[0] for e in found), max(e[1] for e in found), sum(e[2] for e in found)


def read_pings(folder: Path) -> list[int]:
    """How long pings took, in ns, in the order in which each process ran them."""
    return [int(line) for file in sorted(folder.glob("ping-*")) for line in file.read_text().splitlines() if line]
