"""What handlers of a module share for as long as a worker lives: a client, a model, a cache."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

Resources = Mapping[str, Any]


class Lifespan:
    """A module's resources: made before its first job, closed after its last.

    Args:
        function: `async def resources(): …; yield {…}`.
    """

    def __init__(self, function: Callable[[], AsyncIterator[Resources]]) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"
        self._function = function

    def open(self) -> AbstractAsyncContextManager[Resources]:
        """Make them for the length of a block."""
        return asynccontextmanager(self._function)()


def lifespan(function: Callable[[], AsyncIterator[Resources]]) -> Lifespan:
    """Declare what the handlers of this module share; they find it in `ctx.resources`.

    Args:
        function: an async generator function without arguments that yields one mapping.

    Raises:
        TypeError: it is anything else.
    """
    if not inspect.isasyncgenfunction(function):
        raise TypeError("@lifespan stands above an async generator: async def resources(): …; yield {…}")
    if inspect.signature(function).parameters:
        raise TypeError(f"@lifespan {function.__qualname__}: it is called without arguments")
    return Lifespan(function)


def lifespan_of(module: str) -> Lifespan | None:
    """What the module declares or imports, if anything.

    Raises:
        TypeError: it has two of them.
    """
    found = {id(value): value for value in vars(sys.modules.get(module, object)).values() if isinstance(value, Lifespan)}
    if len(found) > 1:
        raise TypeError(f"module {module} has two @lifespan functions; one yields everything its handlers share")
    return next(iter(found.values()), None)
