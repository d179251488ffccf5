"""Which handler runs which kind of job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from ingestd.errors import ConfigurationError
from ingestd.jobs.backoff import Backoff

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
        backoff: waits between attempts.
        executor: `async` runs on the event loop, `thread` in a thread.
    """

    kind: str
    run: Handler
    queue: str = "default"
    priority: int = 0
    max_attempts: int = 4
    timeout: timedelta | None = None
    backoff: Backoff = field(default_factory=Backoff)
    executor: Literal["async", "thread"] = "async"


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
