"""A file lock that the kernel drops when its last holder dies, however it dies."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

_LOOK_AGAIN = 0.03  # seconds
_SAY_AGAIN = 10.0  # seconds


class FileLock:
    """One hold on a lock file, shared or exclusive; a process that we start has no part in it unless given `handle`.

    Args:
        path: the file, made if missing and never removed (a removed lock file would be two locks).
        owner: user id that a new file is given to, where we are root.
    """

    def __init__(self, path: Path, owner: int) -> None:
        self._path = path
        self._owner = owner
        self._handle: int | None = None

    def try_shared(self) -> bool:
        """Hold it together with others, if nobody holds it alone."""
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Hold it alone, if nobody else holds it. A shared hold is given up for it, and lost if this fails."""
        return self._try(fcntl.LOCK_EX)

    def drop(self) -> None:
        """Let go, also on behalf of children that were forked with it."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._handle, fcntl.LOCK_UN)
            os.close(self._handle)
            self._handle = None

    @property
    def handle(self) -> int:
        """The open file, for a process that is started with it and shares the lock."""
        assert self._handle is not None
        return self._handle

    def leave(self) -> None:
        """Close it without unlocking: processes that were started with it keep the lock for as long as they live."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    @contextlib.asynccontextmanager
    async def exclusive(self, waiting: Callable[[], None]) -> AsyncIterator[None]:
        """Hold it alone for a block, waiting as long as others hold it.

        Args:
            waiting: called when the wait has lasted a second, and every 10 s from then on.
        """
        say_at = time.monotonic() + 1.0
        while not self.try_exclusive():
            if time.monotonic() > say_at:
                waiting()
                say_at += _SAY_AGAIN
            await asyncio.sleep(_LOOK_AGAIN)
        try:
            yield
        finally:
            self.drop()

    def _try(self, kind: int) -> bool:
        if self._handle is None:
            self._handle = self._open()
        try:
            fcntl.flock(self._handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            self._handle = None
            return False
        return True

    def _open(self) -> int:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if os.geteuid() == 0 and os.fstat(handle).st_uid != self._owner:
            os.fchown(handle, self._owner, -1)
        return handle
