"""Which handler runs which kind of job."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from ingestd.errors import ConfigurationError
from ingestd.jobs.arguments import arguments_schema, models
from ingestd.jobs.backoff import Backoff
from ingestd.jobs.lifespan import Lifespan
from ingestd.settings import parse_name

Executor = Literal["async", "thread", "process"]
Handler = Callable[..., Awaitable[Any]] | Callable[..., Any]

MOST_ATTEMPTS = 32767
# An interpreter with our modules and a connection takes half of it.
LEAST_MEMORY = 64 << 20


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
        lifespan: what its module's handlers share.
        models: arguments that are annotated with pydantic models.
        plain: it runs on the event loop and uses no extra, so that running it is one call.

    Raises:
        ValueError: an option makes no sense.
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
    lifespan: Lifespan | None = None
    models: Mapping[str, Any] = field(init=False, repr=False, compare=False)
    plain: bool = field(init=False, repr=False, compare=False)
    _names: tuple[frozenset[str], frozenset[str] | None, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "_names", _argument_names(self.run))
        object.__setattr__(self, "models", models(self.run))
        extras = self.timeout or self.hard_timeout or self.models or self.lifespan
        object.__setattr__(self, "plain", self.executor == "async" and not extras)

    def schema(self) -> Mapping[str, Any]:
        """The JSON schema of the arguments."""
        return self.arguments if self.arguments is not None else arguments_schema(self.run)

    def unfit(self, args: Mapping[str, Any]) -> str | None:
        """Why the handler cannot be called with these arguments, or None if it can."""
        needed, known, context = self._names
        if not args and not needed:
            return None
        if needed <= args.keys() and (args.keys() <= known if known is not None else context not in args):
            return None
        missing = ", ".join(sorted(needed - args.keys()))
        others = args.keys() - known if known is not None else args.keys() & {context}
        stray = ", ".join(sorted(str(name) or '""' for name in others))
        told = [f"missing {missing}"] * bool(missing) + [f"unexpected {stray}"] * bool(stray)
        return f"the queued arguments do not fit the handler: {'; '.join(told)}"


def _check(spec: HandlerSpec) -> None:
    told = f"of job {spec.kind}"
    tries: object = spec.max_attempts
    # By its type, for True is 1 as well.
    if type(tries) is not int or not 1 <= tries <= MOST_ATTEMPTS:
        raise ValueError(f"max_attempts {told} must be 1 to {MOST_ATTEMPTS}, a whole number, not {tries!r:.100}: the first try counts")
    if not isinstance(spec.backoff, Backoff):
        raise ValueError(f'backoff {told} must be a Backoff: backoff=Backoff("1m", factor=2, cap="1h", jitter=0.1)')
    for name in ("timeout", "hard_timeout", "stuck_after"):
        value = getattr(spec, name)
        if value is not None and value <= timedelta():
            raise ValueError(f"{name} {told} must be longer than nothing")
    if spec.timeout and spec.hard_timeout and spec.hard_timeout < spec.timeout:
        raise ValueError(f"hard_timeout {told} must not be shorter than its timeout: it comes second")
    if spec.executor not in ("async", "thread", "process"):
        raise ValueError(f'executor {told} must be "async", "thread" or "process", not {spec.executor!r}')
    if spec.memory_limit is not None and spec.executor != "process":
        raise ValueError(f'memory_limit {told} needs executor="process": threads and coroutines share the daemon\'s memory')
    if spec.memory_limit is not None and spec.memory_limit < LEAST_MEMORY:
        raise ValueError(f"memory_limit {told} must be at least {LEAST_MEMORY >> 20} MB: the interpreter itself needs some")
    if spec.recycle_after < 1:
        raise ValueError(f"recycle_after {told} must be 1 or more")
    if len({spec.kind, *spec.aliases}) != 1 + len(spec.aliases):
        raise ValueError(f"aliases {told} must be a list of other names, each once")
    for alias in spec.aliases:
        parse_name(alias)


def _argument_names(handler: Handler) -> tuple[frozenset[str], frozenset[str] | None, str]:
    """Names that must be given, names that may be (None: any), and the name of the context, which is neither."""
    context, *parameters = inspect.signature(handler).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = None if any(p.kind is p.VAR_KEYWORD for p in parameters) else frozenset(p.name for p in named)
    reserved = "" if context.kind is context.POSITIONAL_ONLY else context.name
    return frozenset(p.name for p in named if p.default is p.empty), known, reserved


class Registry:
    """All kinds this process can run."""

    def __init__(self, specs: Iterable[HandlerSpec] = ()) -> None:
        self._specs: dict[str, HandlerSpec] = {}
        self._by_name: dict[str, HandlerSpec] = {}
        for spec in specs:
            self.add(spec)

    def add(self, spec: HandlerSpec) -> None:
        """Enter a kind and its aliases.

        Raises:
            ConfigurationError: one of its names is taken by another handler.
        """
        names = (spec.kind, *spec.aliases)
        for name in names:
            if name in self._by_name:
                raise ConfigurationError([f'two handlers for kind "{name}"; give one of them another name'])
        self._specs[spec.kind] = spec
        self._by_name |= dict.fromkeys(names, spec)

    def get(self, kind: str) -> HandlerSpec | None:
        """The handler of a kind or of a name it had before, or None."""
        return self._by_name.get(kind)

    def specs(self) -> list[HandlerSpec]:
        """All handlers."""
        return list(self._specs.values())

    def kinds(self) -> list[str]:
        """All names that jobs of these kinds may be queued under, sorted."""
        return sorted(self._by_name)
