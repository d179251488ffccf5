"""On one machine death is exact: each node holds a lock on a file, and the kernel lets go of it when the process ends.

The same file tells which jobs had started. It is mapped into memory, so that a note costs no system call and outlives any death of
the process; the death of the machine is told by its boot id.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from contextlib import suppress
from pathlib import Path
from uuid import UUID

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
HEAD = struct.Struct("=36sI")
CELLS = 16384
SIZE = HEAD.size + 8 * CELLS


class Notes:
    """Which jobs run in this process, in cells of 64 bits: a slot notes the id of the job it starts, and 0 when that has ended.

    Args:
        memory: `SIZE` bytes that others can read when this process is dead; None: nobody will.
    """

    def __init__(self, memory: memoryview | None = None) -> None:
        self._memory = memory or memoryview(bytearray(SIZE))
        HEAD.pack_into(self._memory, 0, _boot_id(), True)
        self.cells = self._memory[HEAD.size :].cast("q")
        self._free = list(range(CELLS - 1, -1, -1))

    def take(self) -> int:
        """A cell for one slot."""
        if not self._free:
            # More slots than cells: some share one, and the notes count as incomplete from now on.
            HEAD.pack_into(self._memory, 0, _boot_id(), False)
            return 0
        return self._free.pop()

    def give_back(self, cell: int) -> None:
        """The slot is no more."""
        self.cells[cell] = 0
        self._free.append(cell)


class Presence:
    """The folder of node locks under a state directory.

    Args:
        folder: `<state_dir>/nodes`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[UUID, int] = {}

    def enter(self, node: UUID) -> Notes:
        """Hold a node's lock until `leave` or until this process ends; returns where to note which jobs run."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path(node), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._held[node] = descriptor
        try:
            # Room for all of it now: a page that finds none on the disk when it is first written to ends the process by SIGBUS.
            os.posix_fallocate(descriptor, 0, SIZE)
            return Notes(memoryview(mmap.mmap(descriptor, SIZE)))
        except OSError:
            # The lock needs no room. What had started is told by the node's reports alone, as it is on other machines.
            os.ftruncate(descriptor, 0)
            return Notes()

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

    def started(self, node: UUID) -> set[int] | None:
        """The jobs that a node runs, or ran when it died; None where nobody here can tell."""
        try:
            notes = self._path(node).read_bytes()
        except OSError:
            return None
        if len(notes) != SIZE or HEAD.unpack_from(notes) != (_boot_id(), True):
            return None
        return set(memoryview(notes)[HEAD.size :].cast("q").tolist()) - {0}

    def forget(self, node: UUID) -> None:
        """Remove the file of a node that was rescued."""
        with suppress(OSError):
            self._path(node).unlink(missing_ok=True)

    def _path(self, node: UUID) -> Path:
        return self._folder / f"{node}.lock"


def _boot_id() -> bytes:
    try:
        return BOOT_ID.read_bytes().strip().ljust(36)[:36]
    except OSError:
        return b" " * 36
