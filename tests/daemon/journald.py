"""A stand-in for journald beside a daemon that believes it runs under systemd."""

from __future__ import annotations

import os
import runpy
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Journald:
    """Collects entries.

    Args:
        path: of its socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, str]] = []

    def collect(self, source: socket.socket) -> None:
        """Take entries until an empty datagram comes."""
        while data := source.recv(1 << 20):
            self.entries.append(_parsed(data))

    def where(self, **fields: str) -> list[dict[str, str]]:
        """The entries that have these fields, by their names without INGESTD_."""
        wanted = {f"INGESTD_{name.upper()}": value for name, value in fields.items()}
        return [entry for entry in list(self.entries) if wanted.items() <= entry.items()]

    @property
    def inside(self) -> list[str]:
        """A command that runs `python -m ingestd …` as if systemd had started it."""
        return [sys.executable, "-m", "tests.daemon.journald", str(self.path)]


@contextmanager
def open_journald() -> Iterator[Journald]:
    """A stand-in for the length of a block."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as source:
        path = Path(folder) / "socket"
        source.bind(str(path))
        made = Journald(path)
        thread = threading.Thread(target=made.collect, args=(source,), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", str(path))
            thread.join(20)


def _parsed(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    while data:
        head, _, rest = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        found[name.decode()] = value.decode()
        data = rest
    return found


if __name__ == "__main__":
    from ingestd import journal

    # systemd says so of the stream that it connects; the socket it does not have to tell.
    stat = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{stat.st_dev}:{stat.st_ino}"
    journal.SOCKET = Path(sys.argv[1])
    # PATH PYTHON -m ingestd …
    sys.argv = ["ingestd", *sys.argv[5:]]
    runpy.run_module("ingestd", run_name="__main__")
