"""Which kinds nodes have published, and whether arguments fit them: asked before a job is stored, not when it runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from ingestd.errors import InvalidInput
from ingestd.jobs.arguments import problems
from ingestd.jobs.checks import unstorable
from ingestd.jobs.store import queues
from ingestd.settings import did_you_mean

REMEMBERED_S = 60.0
NOBODY_YET = "; no node has run here yet: start one with `ingestd run`, and name the modules of your handlers in [daemon] handlers"
_TYPES: Mapping[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict}
_PLACE = re.compile(r'"([^"]*)"')


@dataclass(frozen=True, slots=True)
class PublishedKind:
    """A kind as nodes have published it.

    Args:
        name: its name now; it may have been asked for by an older one.
        arguments: JSON schema of its arguments; None: nothing is said about them.
        read_at: when it was read, in monotonic seconds.
    """

    name: str
    arguments: Mapping[str, Any] | None
    read_at: float
    _plainly_fit: Callable[[Any], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_plainly_fit", _quick_check(self.arguments))

    @property
    def stale(self) -> bool:
        """Whether it was read so long ago that it may have changed."""
        return time.monotonic() - self.read_at > REMEMBERED_S

    def problems(self, args: Mapping[str, Any]) -> list[str]:
        """What is wrong with arguments; empty where they fit."""
        return [] if self._plainly_fit(args) else problems(self.arguments or {}, args)

    def fit(self, args: Iterable[Mapping[str, Any]]) -> bool:
        """Whether all of these arguments fit."""
        return not self.arguments or all(map(self._plainly_fit, args)) or not any(map(self.problems, args))

    def check(self, args: Iterable[Mapping[str, Any]]) -> None:
        """Refuse arguments that do not fit.

        Raises:
            InvalidInput: says which, with a JSON pointer.
        """
        for one in args if self.arguments else ():
            wrong = self.problems(one)
            if wrong:
                place = _PLACE.search(wrong[0])
                pointer = "/args" + (f"/{re.sub(r'[.[]', '/', place[1]).replace(']', '')}" if place else "")
                raise InvalidInput(f"the arguments do not fit {self.name}: {'; '.join(wrong[:5])}", pointer=pointer[:200])


class _Unclear:
    """The type of no value: only the whole schema can tell."""


def _type_said(said: Any) -> type:
    if said in ({}, True):
        return object
    plain = isinstance(said, Mapping) and said.keys() == {"type"} and isinstance(said["type"], str)
    return _TYPES.get(said["type"], _Unclear) if plain else _Unclear


def _quick_check(schema: Mapping[str, Any] | None) -> Callable[[Any], bool]:
    """What tells in a fraction of the time that arguments fit, as nearly all do; where it says no, the schema has the last word."""
    if not schema:
        return lambda _args: True
    known = {name: _type_said(said) for name, said in (schema.get("properties") or {}).items()}
    others = object if schema.get("additionalProperties", True) is True else _Unclear
    needed = frozenset(schema.get("required") or ())

    def fits(args: Any) -> bool:
        if type(args) is not dict or not needed <= args.keys():
            return False
        for name, value in args.items():
            wanted = known.get(name, others)
            if wanted is not object and type(value) is not wanted:
                return False
        return True

    return fits


async def require_kind(conn: asyncpg.Connection, kind: str) -> PublishedKind:
    """A kind that a node has published, by its name or an older one of it.

    Raises:
        InvalidInput: nobody ever published it, so nobody would run the job; says which kinds there are.
    """
    if wrong := unstorable(kind):
        raise InvalidInput(f"kind {wrong}", pointer="/kind")
    found = await queues.published_kind(conn, kind)
    if found is None:
        known = [row["name"] for row in await queues.kinds(conn)]
        hint = did_you_mean(kind, known) or (f"; known kinds: {', '.join(known)}" if known else NOBODY_YET)
        raise InvalidInput(f'no node knows the kind "{kind[:200]}"{hint}', pointer="/kind")
    return PublishedKind(*found, read_at=time.monotonic())
