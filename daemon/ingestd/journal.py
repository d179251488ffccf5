"""journald's native protocol: a log line as named fields, in one datagram, that never waits for whoever reads it.

The kernel's queue to journald is the only buffer. Where it is full, or journald is away, a line is lost and counted: a daemon that
waits for its own log is down because of its log.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
# journald itself takes much more, but a line is no place for it: memory stays bounded whatever is said.
LONGEST_VALUE = 256 << 10
LONGEST_ENTRY = 1 << 20
LONGEST_NAME = 64
# What the kernel may hold for us; it grants what it likes.
SEND_BUFFER = 8 << 20
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_NOT_IN_NAMES = re.compile(r"[^A-Z0-9_]")


def is_stream(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether a descriptor is the stream that systemd connected to journald.

    Not whether JOURNAL_STREAM is set: every child inherits that, also one whose output goes elsewhere.
    """
    try:
        stat = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


class Journal:
    """Sends entries to journald.

    Args:
        path: of its socket.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def send(self, fields: Mapping[str, str]) -> bool:
        """Send one entry, by name of field as `field_name` makes them.

        Returns:
            False if it was lost.
        """
        entry = encode(fields)
        try:
            # By address each time: a restarted journald is a new socket behind the same name.
            self._socket.sendto(entry, self._path)
        except OSError as error:
            return error.errno in _TOO_LARGE and self._send_as_file(entry)
        return True

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    def _send_as_file(self, entry: bytes) -> bool:
        """Hand over a sealed file in memory, which is how journald takes what no datagram can carry."""
        try:
            descriptor = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return False
        try:
            with open(descriptor, "wb", closefd=False, buffering=0) as file:
                left = memoryview(entry)
                while left:
                    left = left[file.write(left) :]
            # journald maps it only if nobody can change it any more.
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            self._socket.sendmsg([], ancillary, 0, self._path)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True


def encode(fields: Mapping[str, str]) -> bytes:
    """An entry on the wire: `NAME=value` a line; a value of several lines with its length in front of it."""
    parts: list[bytes] = []
    size = 0
    for name, text in fields.items():
        # Half a surrogate pair, as in a file's name, is written out.
        value = _cut(text.encode("utf-8", "backslashreplace"), min(LONGEST_VALUE, LONGEST_ENTRY - size))
        key = name.encode("ascii")
        size += len(key) + len(value) + 10
        if b"\n" in value:
            parts += key, b"\n", struct.pack("<Q", len(value)), value, b"\n"
        else:
            parts += key, b"=", value, b"\n"
        if size >= LONGEST_ENTRY:
            break
    return b"".join(parts)


def field_name(name: str, prefix: str = "INGESTD_") -> str:
    """A name as journald takes it: capitals, digits and underscores, neither of the last two first, 64 at most."""
    plain = _NOT_IN_NAMES.sub("_", name.upper())
    return (prefix + plain)[:LONGEST_NAME]


def _cut(value: bytes, longest: int) -> bytes:
    if len(value) <= longest:
        return value
    mark = b" [cut]"
    # Not in the middle of a character: journald would take the value for a blob.
    kept = value[: max(longest - len(mark), 0)].decode("utf-8", "ignore").encode()
    return kept + mark
