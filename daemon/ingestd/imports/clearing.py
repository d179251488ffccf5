"""What happens to an original after its load: it stays, is moved away, or is deleted."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from ingestd.errors import FileMissing, Refused
from ingestd.files.identity import Stamp, shown
from ingestd.files.spool import NotAFile, open_folder, open_regular
from ingestd.imports.settings import ImportSettings


def clear(settings: ImportSettings, path: str, stamp: Stamp) -> str | None:
    """Move or delete an original that has been loaded, if the import says so. It blocks: call it in a thread.

    A file that changed since it arrived is a new arrival and is left alone.

    Args:
        path: absolute path of the original.
        stamp: its size and modification time when it arrived.

    Returns:
        What went wrong, in words, or None.
    """
    place = Path(path)
    pattern = settings.pattern
    if settings.after_load == "keep" or pattern is None or not place.is_relative_to(pattern.base):
        return None
    try:
        fd = open_regular(place, pattern.base)
        try:
            unchanged = Stamp.of(os.fstat(fd)) == stamp
        finally:
            os.close(fd)
        if unchanged:
            _remove(place, pattern.base, settings.move_to)
    except (FileMissing, NotAFile):
        return None
    except (Refused, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message
        what = f"moved to {settings.move_to}" if settings.move_to else "deleted"
        return f"{shown(path)} has been loaded but cannot be {what}: {why}"
    return None


def _remove(place: Path, base: Path, target: Path | None) -> None:
    folder = open_folder(base, place.relative_to(base).parts[:-1])
    try:
        if target is None:
            os.unlink(place.name, dir_fd=folder)
            return
        target.mkdir(parents=True, exist_ok=True)
        goal = _free_name(target, place.name)
        try:
            os.rename(place.name, goal, src_dir_fd=folder)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_over(place, base, goal)
            os.unlink(place.name, dir_fd=folder)
    finally:
        os.close(folder)


def _copy_over(place: Path, base: Path, goal: Path) -> None:
    """Copy to another file system; the goal appears whole or not at all."""
    draft = goal.with_name(f".{goal.name}.part")
    fd = open_regular(place, base)
    try:
        with os.fdopen(fd, "rb") as source, draft.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
            out.flush()
            os.fsync(out.fileno())
            status = os.fstat(source.fileno())
        os.utime(draft, ns=(status.st_atime_ns, status.st_mtime_ns))
        draft.rename(goal)
    finally:
        draft.unlink(missing_ok=True)


def _free_name(folder: Path, name: str) -> Path:
    goal, number = folder / name, 1
    while goal.exists():
        number += 1
        goal = folder / f"{Path(name).stem}.{number}{Path(name).suffix}"
    return goal
