"""Which files a source means: a glob, taken apart into the folder to look in and what to match below it."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ANY_DEPTH = "**"
_MAGIC = re.compile(r"[*?[]")
_SINGLE = re.compile(r"\[(.)\]")
# What other programs call a file that they are still writing.
_UNFINISHED = (".part", ".tmp", ".crdownload", ".filepart", "~")


def ignored(name: str) -> bool:
    """Whether a name belongs to nobody's data: hidden, or still being written by its program."""
    return name.startswith(".") or name.lower().endswith(_UNFINISHED)


@dataclass(frozen=True)
class Pattern:
    """A glob of one folder and what lies below it.

    `*` and `?` stop at a slash, `[…]` is one character, `**` is any number of folders.

    Args:
        base: the folder before the first wildcard.
        parts: what must match below it, one part a level; never empty.
    """

    base: Path
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, glob: str) -> Pattern:
        """Take an absolute glob apart."""
        parts = list(Path(glob).parts)
        base = Path(parts.pop(0))
        while len(parts) > 1 and (literal := _literal(parts[0])) is not None:
            base /= literal
            parts.pop(0)
        return cls(Path(os.path.normpath(base)), tuple(parts))

    def __str__(self) -> str:
        return str(self.base.joinpath(*self.parts))

    @property
    def name(self) -> str | None:
        """The file's name, where the last part has no wildcard."""
        return _literal(self.parts[-1])

    def matches(self, names: Sequence[str]) -> bool:
        """Whether a file at `names` below the base is meant."""
        return any(at == len(self.parts) for at in self._walk(names))

    def may_hold(self, names: Sequence[str]) -> bool:
        """Whether the folder at `names` below the base could hold a file that is meant."""
        return any(at < len(self.parts) for at in self._walk(names))

    def covers(self, folder: Path) -> bool:
        """Whether some file directly in `folder` could be meant."""
        if not folder.is_relative_to(self.base):
            return False
        last = len(self.parts) - 1
        return any(at == last or self.parts[at:-1] == (ANY_DEPTH,) for at in self._walk(folder.relative_to(self.base).parts))

    @cached_property
    def _tests(self) -> tuple[re.Pattern[str] | None, ...]:
        return tuple(None if part == ANY_DEPTH else re.compile(fnmatch.translate(part)) for part in self.parts)

    def _walk(self, names: Sequence[str]) -> Iterator[int]:
        """The places in `parts` that one can stand at after `names`, as in a state machine."""
        places = self._open({0})
        for name in names:
            after: set[int] = set()
            for at in places:
                if at == len(self.parts):
                    continue
                test = self._tests[at]
                if test is None:
                    after.add(at)
                elif test.match(name):
                    after.add(at + 1)
            places = self._open(after)
        yield from places

    def _open(self, places: set[int]) -> set[int]:
        """Add what can be reached for nothing: `**` is no folder at all as well."""
        found = set(places)
        for at in range(len(self.parts)):
            if at in found and self.parts[at] == ANY_DEPTH:
                found.add(at + 1)
        return found


def _literal(part: str) -> str | None:
    """The name that a part without wildcards stands for; `[x]` is how a wildcard character is written as itself."""
    plain = _SINGLE.sub("", part)
    return None if _MAGIC.search(plain) else _SINGLE.sub(r"\1", part)
