"""Which handler runs which kind of job."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from ingestd.errors import ConfigurationError
from ingestd.jobs.backoff import Backoff

Executor = Literal["async", "thread", "process"]
Handler = Callable[..., Awaitable[Any]] | Callable[..., Any]


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """A kind of job and how to run it.

    Args:
        kind: the name jobs are enqueued under.
        run: called as `run(ctx, **args)`; returns an Outcome or None.
        queue: default lane.
        priority: default priority, -100..100.
        max_attempts: a first try and its retries.
        timeout: an attempt that takes longer is cancelled; None: never.
        hard_timeout: an attempt that takes longer is killed where it can be, and reported where it cannot; None: never.
        stuck_after: an attempt that shows no progress for so long counts as stuck; None: the daemon's default.
        backoff: waits between attempts.
        executor: `async` runs on the event loop, `thread` in a thread, `process` in a process of its own.
        memory_limit: bytes a process may use; None: no limit.
        recycle_after: jobs a process runs before a fresh one takes its place.
        aliases: names the kind had before; jobs that wait under them are run.
        arguments: JSON schema of the arguments, published for callers elsewhere; None: from the signature of `run`.
    """

    kind: str
    run: Handler
    queue: str = "default"
    priority: int = 0
    max_attempts: int = 4
    timeout: timedelta | None = None
    hard_timeout: timedelta | None = None
    stuck_after: timedelta | None = None
    backoff: Backoff = field(default_factory=Backoff)
    executor: Executor = "async"
    memory_limit: int | None = None
    recycle_after: int = 1000
    aliases: tuple[str, ...] = ()
    arguments: Mapping[str, Any] | None = None
    _names: tuple[frozenset[str], frozenset[str] | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_names", _argument_names(self.run))

    def unfit(self, args: Mapping[str, Any]) -> str | None:
        """Why the handler cannot be called with these arguments, or None if it can."""
        needed, known = self._names
        if not args and not needed:
            return None
        if needed <= args.keys() and (known is None or args.keys() <= known):
            return None
        missing = ", ".join(sorted(needed - args.keys()))
        stray = ", ".join(sorted(args.keys() - known)) if known is not None else ""
        told = [f"missing {missing}"] * bool(missing) + [f"unexpected {stray}"] * bool(stray)
        return f"the queued arguments do not fit the handler: {'; '.join(told)}"


def _argument_names(handler: Handler) -> tuple[frozenset[str], frozenset[str] | None]:
    """Names that must be given, and names that may be (None: any), the context left out."""
    parameters = list(inspect.signature(handler).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        known = None
    else:
        known = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    needed = frozenset(p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return needed, known


class Registry:
    """All kinds this process can run."""

    def __init__(self, specs: Iterable[HandlerSpec] = ()) -> None:
        self._specs: dict[str, HandlerSpec] = {}
        for spec in specs:
            self.add(spec)

    def add(self, spec: HandlerSpec) -> None:
        """Enter a kind.

        Raises:
            ConfigurationError: the kind is taken by another handler.
        """
        if spec.kind in self._specs:
            raise ConfigurationError([f'two handlers for kind "{spec.kind}"; give one of them another name'])
        self._specs[spec.kind] = spec

    def get(self, kind: str) -> HandlerSpec | None:
        """The handler of a kind, or None."""
        return self._specs.get(kind)

    def specs(self) -> list[HandlerSpec]:
        """All handlers."""
        return list(self._specs.values())

    def kinds(self) -> list[str]:
        """All kinds, sorted."""
        return sorted(self._specs)
