"""A folder as a source: looked at again and again, because polling works on every file system and misses nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ingestd.files.identity import Stamp, shown
from ingestd.imports.sources.pattern import Pattern, ignored


@dataclass(frozen=True, slots=True)
class Seen:
    """A file at one look.

    Args:
        name: path below the folder of the source.
        path: absolute path.
    """

    name: str
    path: str
    stamp: Stamp


@dataclass
class Scan:
    """What one look at a source found.

    Args:
        files: everything that is meant and not hidden.
        problems: place -> what is wrong there, in words; a place is a path.
        remarks: place -> what was left alone on purpose and why.
    """

    files: list[Seen] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)


def scan(pattern: Pattern) -> Scan:
    """Look at a source once. It blocks: call it in a thread."""
    found = Scan()
    trouble = look_at_folder(pattern.base)
    if trouble:
        found.problems[shown(str(pattern.base))] = trouble
        return found
    pending: list[tuple[str, ...]] = [()]
    while pending:
        inside = pending.pop()
        folder = pattern.base.joinpath(*inside)
        try:
            with os.scandir(folder) as entries:
                pending += [(*inside, name) for name in _sort_out(entries, inside, pattern, found)]
        except FileNotFoundError:
            continue  # gone since we saw it
        except OSError as error:
            place = shown(str(folder))
            found.problems[place] = f"cannot read folder {place}: {error.strerror}"
    return found


def look_at_folder(folder: Path) -> str | None:
    """Why a folder cannot be looked into, in words; None if it can."""
    name = shown(str(folder))
    try:
        with os.scandir(folder):
            return None
    except FileNotFoundError:
        return f"folder {name} does not exist"
    except NotADirectoryError:
        return f"{name} is not a folder"
    except OSError as error:
        return f"cannot read folder {name}: {error.strerror}"


def _sort_out(entries: Iterable[os.DirEntry[str]], inside: tuple[str, ...], pattern: Pattern, found: Scan) -> list[str]:
    """Note each file that is meant; return the folders to go into."""
    deeper: list[str] = []
    for entry in entries:
        if ignored(entry.name):
            continue
        names = (*inside, entry.name)
        meant = pattern.matches(names)
        try:
            if entry.is_symlink():
                if meant:
                    found.remarks[shown(entry.path)] = f"{shown(entry.path)} is a symbolic link and is not followed"
            elif entry.is_dir(follow_symlinks=False):
                if pattern.may_hold(names):
                    deeper.append(entry.name)
                elif meant and pattern.name is not None:
                    found.problems[shown(entry.path)] = f'{shown(entry.path)} is a folder: write source = "{pattern}/*"'
            elif meant and entry.is_file(follow_symlinks=False):
                stamp = Stamp.of(entry.stat(follow_symlinks=False))
                found.files.append(Seen(os.path.join(*names), entry.path, stamp))  # noqa: PTH118 - a text, not a path
        except FileNotFoundError:
            continue  # gone since it was listed
        except OSError as error:
            found.problems[shown(entry.path)] = f"cannot look at {shown(entry.path)}: {error.strerror}"
    return deeper


@dataclass(frozen=True, slots=True)
class _FirstLook:
    stamp: Stamp
    at: float


class Settling:
    """Tells complete files from those still being written: size and time are equal on two looks far enough apart.

    Args:
        settle_s: seconds between the two looks.
    """

    def __init__(self, settle_s: float) -> None:
        self.settle_s = settle_s
        self._looks: dict[str, _FirstLook] = {}

    def complete(self, files: Iterable[Seen], now_s: float) -> list[Seen]:
        """Those that have not changed for long enough, in arrival order: modification time, then name.

        Args:
            files: everything at this look that is not known yet; what is left out is forgotten.
            now_s: monotonic seconds of the look.
        """
        before, self._looks = self._looks, {}
        ready: list[Seen] = []
        for file in files:
            first = before.get(file.path)
            if first is None or first.stamp != file.stamp:
                first = _FirstLook(file.stamp, now_s)
            self._looks[file.path] = first
            if now_s - first.at >= self.settle_s:
                ready.append(file)
        return in_order(ready)

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until the next file may be complete; None if none is waited for."""
        waits = [first.at + self.settle_s - now_s for first in self._looks.values()]
        return min((wait for wait in waits if wait > 0), default=None)


def in_order(files: Iterable[Seen]) -> list[Seen]:
    """Arrival order: modification time, then name."""
    return sorted(files, key=lambda file: (file.stamp.mtime_ns, file.name))


def old_enough(file: Seen, settle_s: float) -> bool:
    """Whether a file was last written at least `settle_s` seconds ago, by a clock that is not behind it."""
    return time.time_ns() - file.stamp.mtime_ns >= settle_s * 1e9
