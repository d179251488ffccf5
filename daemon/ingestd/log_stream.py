"""A descriptor that the log is written to, by a thread of its own where somebody else has to read what comes out.

A pipe that nobody reads, or a terminal that somebody has stopped, blocks whoever writes to it: here that is a thread which does
nothing else.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque

# What may wait for a reader who is slow; a line that comes when there is more is lost.
MOST_WAITING = 8 << 20
# Written at a time, so that what waits is let go of as it is read.
PIECE = 64 << 10


class LogStream:
    """Writes whole lines to a descriptor and never waits for who reads it.

    Args:
        descriptor: open for writing; it stays open.
        most_waiting: bytes that may wait for the reader.
    """

    def __init__(self, descriptor: int, most_waiting: int = MOST_WAITING) -> None:
        self._descriptor = descriptor
        self._most_waiting = most_waiting
        # Nobody reads a file: the write ends by itself, and what is written survives the death of this process.
        self._at_once = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._lost = 0

    def write(self, line: bytes) -> bool:
        """Write one line, or have it written.

        Returns:
            False if it was lost.

        Raises:
            OSError: a file could not be written.
        """
        if self._at_once:
            _write_all(self._descriptor, line)
            return True
        with self._changed:
            # One line always fits, or the longest could never be written.
            if self._lines and self._waiting + len(line) > self._most_waiting:
                return False
            self._lines.append(line)
            self._waiting += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._pour, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return True

    def take_lost(self) -> int:
        """Lines that were accepted and could not be written since the last call: their reader has gone."""
        with self._changed:
            lost, self._lost = self._lost, 0
        return lost

    def flush(self, within_s: float) -> None:
        """Wait until everything is written, for so many seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, within_s)

    def _pour(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                piece = [self._lines[0]]
                size = len(piece[0])
                while len(piece) < len(self._lines) and size + len(self._lines[len(piece)]) <= PIECE:
                    piece.append(self._lines[len(piece)])
                    size += len(piece[-1])
            try:
                _write_all(self._descriptor, b"".join(piece))
                lost = 0
            except OSError:
                lost = len(piece)
            with self._changed:
                # Only now: who waits for the last line waits until it is out.
                for _ in piece:
                    self._lines.popleft()
                self._waiting -= size
                self._lost += lost
                self._changed.notify_all()


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
