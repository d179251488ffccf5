"""The local store of received bytes: copied in while hashed, kept by content, whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ingestd.errors import FileMissing, IngestdError, Refused
from ingestd.files.identity import Received, Stamp

PIECE = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StorageFull(IngestdError):
    """The disk of the store has no room for the bytes; nothing was kept."""

    http_status, slug, title = 507, "storage-full", "Storage full"


class NotComplete(IngestdError):
    """The file changed while it was being read, so it is not complete yet; nothing was kept."""

    http_status, slug, title = 409, "not-complete", "Not complete"


class NotAFile(Refused):
    """What was named is a folder, a link, a pipe or a device, not a regular file."""


class Store:
    """The files of one node: `files/spool` while they come in, `files/kept` once they are whole.

    The store has a UUID of its own that outlives the processes using it; rows name it to say where bytes lie.

    Args:
        state_dir: the daemon's state folder.
    """

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / "files"
        self._id_file = state_dir / "store.id"
        self._spool = self.folder / "spool"
        self._kept = self.folder / "kept"
        self._id: uuid.UUID | None = None

    @property
    def id(self) -> uuid.UUID:
        """The store's UUID; `open` comes first."""
        if self._id is None:
            raise RuntimeError("the store is not open")
        return self._id

    def open(self) -> uuid.UUID:
        """Make the folders where they are missing, find or make the UUID, and sweep up after dead processes.

        Raises:
            Refused: the state folder cannot be used, or its `store.id` is not a UUID.
        """
        try:
            for folder in (self._spool, self._kept):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._id = self._identify()
            self._sweep()
        except OSError as error:
            raise Refused(f"cannot use the folder {self.folder}: {error.strerror}") from None
        return self._id

    def locate(self, path: str) -> Path:
        """Where the bytes of a file row lie."""
        return self.folder / path

    async def copy_in(self, source: Path | int, *, expected: Stamp | None = None, beneath: Path | None = None) -> Received:
        """Copy a regular file into the store while hashing it, in a thread.

        When this returns, the bytes are on disk under their own hash. If it is cancelled or fails, nothing stays.

        Args:
            source: its path, or a file descriptor that stays the caller's.
            expected: size and modification time that it must still have; None: whatever it has when opened.
            beneath: no link is followed below this folder; None: only the last part must not be a link.

        Raises:
            FileMissing: it is not there.
            Refused: it cannot be read.
            NotAFile: it is not a regular file.
            NotComplete: it changed before or during the copy.
            StorageFull: the disk is full.
        """
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._copy_in, source, expected, beneath, stop)
        finally:
            # A cancelled caller leaves the thread behind: it ends at its next piece and removes its part itself.
            stop.set()

    def _identify(self) -> uuid.UUID:
        try:
            text = self._id_file.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            self._write_identity()
            text = self._id_file.read_text(encoding="ascii", errors="replace").strip()
        try:
            return uuid.UUID(text)
        except ValueError:
            raise Refused(
                f"{self._id_file} does not hold a UUID",
                hint="put back the one it had (column store of ingestd.file); without it the files kept here are not found",
            ) from None

    def _write_identity(self) -> None:
        draft = self._id_file.with_name(f"store.id.{uuid.uuid4().hex}")
        with draft.open("x", encoding="ascii") as file:
            file.write(f"{uuid.uuid4()}\n")
            file.flush()
            os.fsync(file.fileno())
        # link() refuses to replace: of two processes starting at once both end up with the first one's UUID.
        with suppress(FileExistsError):
            os.link(draft, self._id_file)
        draft.unlink()
        _sync_folder(self._id_file.parent)

    def _sweep(self) -> None:
        """Remove parts whose writer is gone: a living writer holds a lock on its part."""
        started = time.time()
        for part in self._spool.glob("*.part"):
            with suppress(OSError):
                fd = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    # The age covers the moment between another process's open and its lock.
                    if started - os.fstat(fd).st_mtime > 5:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        part.unlink()
                finally:
                    os.close(fd)

    def _copy_in(self, source: Path | int, expected: Stamp | None, beneath: Path | None, stop: threading.Event) -> Received:
        with _opened(source, beneath) as fd:
            label = source if isinstance(source, Path) else "the file"
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotAFile(f"{label} is not a regular file")
            stamp = Stamp.of(status)
            if expected is not None and stamp != expected:
                raise NotComplete(f"{label} changed since it was last looked at")
            part = self._spool / f"{uuid.uuid4().hex}.part"
            try:
                digest = _copy(fd, part, stop)
                if Stamp.of(os.fstat(fd)) != stamp or part.stat().st_size != stamp.size:
                    raise NotComplete(f"{label} changed while it was being read")
                return Received(digest, stamp.size, self._keep(part, digest, stamp.size), stamp)
            except OSError as error:
                if error.errno in _FULL:
                    raise StorageFull(
                        f"no room for {label} ({stamp.size} bytes) in {self.folder}: {error.strerror}",
                        hint="free some space; the file is tried again by itself",
                    ) from None
                raise Refused(f"cannot copy {label} into {self.folder}: {error.strerror}") from None
            finally:
                part.unlink(missing_ok=True)

    def _keep(self, part: Path, digest: bytes, size: int) -> str:
        name = digest.hex()
        place = self._kept / name[:2] / name
        with suppress(FileNotFoundError):
            if place.stat().st_size == size:
                return str(place.relative_to(self.folder))
        if not place.parent.is_dir():
            place.parent.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(self._kept)
        part.rename(place)
        _sync_folder(place.parent)
        return str(place.relative_to(self.folder))


def _copy(fd: int, part: Path, stop: threading.Event) -> bytes:
    digest = hashlib.sha256()
    piece = bytearray(PIECE)
    view = memoryview(piece)
    out = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        at = 0
        # By offset: a descriptor that stays the caller's keeps its own position.
        while count := os.preadv(fd, [piece], at):
            if stop.is_set():
                raise NotComplete("the copy was abandoned")
            digest.update(view[:count])
            written = 0
            while written < count:
                written += os.write(out, view[written:count])
            at += count
        os.fsync(out)
    finally:
        os.close(out)
    return digest.digest()


@contextmanager
def _opened(source: Path | int, beneath: Path | None) -> Iterator[int]:
    if isinstance(source, int):
        yield source
        return
    fd = open_regular(source, beneath)
    try:
        yield fd
    finally:
        os.close(fd)


def open_regular(path: Path, beneath: Path | None = None) -> int:
    """Open a file for reading without following a link or waiting for a pipe's writer.

    Args:
        path: absolute where `beneath` is given.
        beneath: folder below which no part of the path may be a link: somebody who may write there could put one in
            place between the look and the opening.

    Raises:
        FileMissing: it is not there.
        NotAFile: it, or a part of the way to it, is a link, or it cannot be opened as a file.
        Refused: it cannot be read.
    """
    try:
        if beneath is None:
            return os.open(path, _READ)
        return _open_beneath(beneath, path.relative_to(beneath).parts)
    except FileNotFoundError:
        raise FileMissing(f"{path} is not there") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise NotAFile(f"{path} is not a regular file, or a part of the way to it is a link") from None
        raise Refused(f"cannot read {path}: {error.strerror}") from None


def open_folder(base: Path, parts: tuple[str, ...]) -> int:
    """Open the folder at `parts` below `base` without following a link on the way; the caller closes it."""
    folder = os.open(base, _FOLDER)
    for part in parts:
        try:
            deeper = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
        folder = deeper
    return folder


def _open_beneath(base: Path, parts: tuple[str, ...]) -> int:
    folder = open_folder(base, parts[:-1])
    try:
        return os.open(parts[-1], _READ, dir_fd=folder)
    finally:
        os.close(folder)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, _FOLDER)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
