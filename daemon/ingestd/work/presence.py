"""On one machine death is exact: each node holds a lock on a file, and the kernel lets go of it when the process ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from uuid import UUID


class Presence:
    """The folder of node locks under a state directory.

    Args:
        folder: `<state_dir>/nodes`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[UUID, int] = {}

    def enter(self, node: UUID) -> None:
        """Hold a node's lock until `leave` or until this process ends."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path(node), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._held[node] = descriptor

    def leave(self, node: UUID) -> None:
        """Let go of a node's lock and remove its file."""
        descriptor = self._held.pop(node, None)
        if descriptor is not None:
            self._path(node).unlink(missing_ok=True)
            os.close(descriptor)

    def is_dead(self, node: UUID) -> bool | None:
        """Whether the node's process has ended; None where this machine cannot tell."""
        if node in self._held:
            return False
        try:
            descriptor = os.open(self._path(node), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def forget(self, node: UUID) -> None:
        """Remove the file of a node that was rescued."""
        with suppress(OSError):
            self._path(node).unlink(missing_ok=True)

    def _path(self, node: UUID) -> Path:
        return self._folder / f"{node}.lock"
