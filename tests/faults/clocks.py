"""A process whose clock is wrong, or steps while it runs: libfaketime, preloaded into that process alone.

Only the wall clock is false. The monotonic one goes on as it is: no machine's steps. (With it preloaded `time.sleep` fails: it
takes no absolute time of that one.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

PLACES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1", "/usr/local/lib/faketime/libfaketime.so.1")
SHARED = Path("/dev/shm")  # where the library keeps what a killed process cannot take away


def library() -> str:
    """Where libfaketime is; skips the test where it is not installed."""
    for place in PLACES:
        if found := sorted(Path("/").glob(place.removeprefix("/"))):
            return str(found[0])
    pytest.skip("libfaketime is not installed: apt-get install faketime")


class Clock:
    """A wall clock that is wrong by so much; give its `environment` to the processes that shall go by it.

    Args:
        file: where its error is kept, and read from at each look at the clock.
        error_s: seconds it is ahead; below zero: behind.
    """

    def __init__(self, file: Path, error_s: float = 0.0) -> None:
        self._file = file
        self._library = library()
        self.step(error_s)

    def step(self, error_s: float) -> None:
        """Let it be wrong by so much from this instant on."""
        # Renamed into place: a half-written error would be a third one.
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{error_s:+.3f}\n", encoding="ascii")
        fresh.rename(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        """What has a process live by it."""
        return {
            "LD_PRELOAD": self._library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }


def forget() -> None:
    """Remove what killed processes with a wrong clock have left in shared memory."""
    for left in SHARED.glob("*faketime_s*_*"):
        pid = left.name.rpartition("_")[2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(PermissionError):
                left.unlink(missing_ok=True)
