"""What received bytes are, and how file names that are not text are shown and found again."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

# Control characters would let a file name write to a terminal, and the backslash must stay itself for the way back.
_UNSHOWABLE = re.compile(rb"[\x00-\x1f\x7f\\]")
_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from another without reading it.

    Args:
        size: bytes.
        mtime_ns: time of the last modification, in nanoseconds since the epoch.
    """

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp that a stat answered."""
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes that are safe in the store.

    Args:
        sha256: digest of the content, 32 bytes.
        size: bytes.
        path: where they lie, relative to the folder of the store.
        stamp: size and modification time of the original when it was read.
    """

    sha256: bytes
    size: int
    path: str
    stamp: Stamp


def shown(name: str) -> str:
    r"""A file name as text that can be stored and printed: what is not UTF-8, control characters and `\` are escaped.

    No two names are shown alike; `actual` finds the name again.
    """
    escaped = _UNSHOWABLE.sub(lambda match: rb"\\" if match[0] == b"\\" else b"\\x%02x" % match[0][0], os.fsencode(name))
    return escaped.decode("utf-8", "backslashreplace")


def actual(text: str) -> str:
    """The file name that `shown` made `text` of."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 16)]) if match[1] else b"\\", text.encode()))
