"""`@job`: declares a function as a kind of job without registering it anywhere."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, cast

from ingestd.jobs.arguments import takes_argument_first
from ingestd.jobs.backoff import Backoff
from ingestd.jobs.client import Handle, current_client
from ingestd.jobs.lifespan import lifespan_of
from ingestd.jobs.options import Options
from ingestd.jobs.registry import Executor, HandlerSpec
from ingestd.settings import parse_duration, parse_name, parse_priority

P = ParamSpec("P")
R = TypeVar("R")

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMG])i?B\s*", re.IGNORECASE)
_POWERS = {"K": 10, "M": 20, "G": 30}


class JobFunction(Generic[P, R]):
    """A function that is also a kind of job: call it as usual, or `enqueue` it.

    Args:
        function: the handler.
        spec: how the worker runs it.
    """

    def __init__(self, function: Callable[P, R], spec: HandlerSpec) -> None:
        self.spec = spec
        self._function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function itself."""
        return self._function(*args, **kwargs)

    async def enqueue(self, **args: Any) -> Handle:
        """Enqueue one job of this kind through the client in use (`async with Client(…)`, or inside a running job).

        Raises:
            TypeError: the arguments do not fit the function.
            InvalidInput: its queue does not exist, or an argument cannot be stored.
        """
        return await self.options().enqueue(**args)

    def options(self, *, conn: Any = None, **options: Unpack[Options]) -> BoundJob:
        """The same kind with options: `await sync.options(delay="10m", tags=["night"]).enqueue(supplier="acme")`.

        Args:
            conn: an asyncpg connection or a psycopg AsyncConnection; the jobs are then part of the caller's transaction.
            options: as `ingestd.jobs.options.Options` says; what is not given is as declared.
        """
        return BoundJob(self._function, self.spec, conn, options)


class BoundJob:
    """A kind of job with options, ready to be enqueued.

    Args:
        function: the handler.
        spec: how it was declared.
        conn: whose transaction the jobs belong to; None: nobody's.
        options: what differs from the declaration.
    """

    def __init__(self, function: Callable[..., Any], spec: HandlerSpec, conn: Any, options: Options) -> None:
        declared = Options(queue=spec.queue, priority=spec.priority, max_attempts=spec.max_attempts)
        given = {name: value for name, value in options.items() if value is not None}
        self._function = function
        self._spec = spec
        self._conn = conn
        self._options = cast("Options", {**declared, **given})

    async def enqueue(self, **args: Any) -> Handle:
        """Enqueue one job; as `JobFunction.enqueue`."""
        self._check(args)
        # The code is at hand: whether a node has published the kind already does not matter, nor what it published.
        return await current_client().enqueue(self._spec.kind, args, allow_unknown=True, conn=self._conn, **self._options)

    async def enqueue_many(self, args: Sequence[Mapping[str, Any]], *, unique_keys: Sequence[str] | None = None) -> list[Handle]:
        """Enqueue many jobs in one transaction; as `Client.enqueue_many`.

        Raises:
            TypeError: some arguments do not fit the function.
            InvalidInput: its queue does not exist, or an argument cannot be stored.
        """
        args = list(args)  # of whatever they are given as: they are looked through more than once
        for one in args:
            self._check(one)
        return await current_client().enqueue_many(
            self._spec.kind, args, unique_keys=unique_keys, allow_unknown=True, conn=self._conn, **self._options
        )

    def _check(self, args: Mapping[str, Any]) -> None:
        if not isinstance(args, dict) or self._spec.unfit(args) is not None:
            # Reading a signature takes ten times as long as all else: only its words are wanted, for they are those of a call.
            inspect.signature(self._function).bind(None, **args)


def job(
    kind: str,
    *,
    queue: str = "default",
    priority: int | str = 0,
    max_attempts: int = 4,
    timeout: str | timedelta | None = None,
    hard_timeout: str | timedelta | None = None,
    stuck_after: str | timedelta | None = None,
    backoff: Backoff | None = None,
    executor: Executor | None = None,
    memory_limit: str | int | None = None,
    recycle_after: int | None = None,
    aliases: Sequence[str] = (),
) -> Callable[[Callable[P, R]], JobFunction[P, R]]:
    """Declare a kind of job.

    Args:
        kind: the name jobs are enqueued under.
        queue: its lane.
        priority: low, normal, high or -100..100.
        max_attempts: a first try and its retries.
        timeout: a duration such as "10m" after which an attempt is cancelled.
        hard_timeout: a duration after which a process is killed; what runs in the daemon cannot be killed and is reported.
        stuck_after: a duration without progress after which an attempt is ended as stuck; None: the daemon's setting.
        backoff: waits between attempts; default 1, 2, 4, 8 … minutes, capped at an hour.
        executor: "process" runs the function in a process of its own; None: an async function on the event loop, a plain one in a thread.
        memory_limit: what such a process may use, such as "512MB" or bytes.
        recycle_after: jobs such a process runs before a fresh one takes its place; default 1000.
        aliases: names the kind had before; jobs that wait under them are run by this function.

    Returns:
        A decorator for `async def handler(ctx, **args)`, or a plain `def`.

    Raises:
        TypeError: it stands above something that cannot be a handler.
        ValueError: an option makes no sense.
    """
    if not isinstance(kind, str):
        raise TypeError('a job needs a name: write @job("name")')
    parse_name(kind)
    parse_name(queue)
    if isinstance(aliases, str):
        raise ValueError(f'aliases of job {kind} is a list: aliases=["{aliases}"]')
    if recycle_after is not None and executor != "process":
        raise ValueError(f'recycle_after of job {kind} needs executor="process"')

    def declare(function: Callable[P, R]) -> JobFunction[P, R]:
        _check_handler(kind, function, executor)
        spec = HandlerSpec(
            kind,
            function,
            queue=queue,
            priority=parse_priority(priority),
            max_attempts=max_attempts,
            timeout=None if timeout is None else parse_duration(timeout),
            hard_timeout=None if hard_timeout is None else parse_duration(hard_timeout),
            stuck_after=None if stuck_after is None else parse_duration(stuck_after),
            backoff=backoff or Backoff(),
            executor=executor or ("async" if inspect.iscoroutinefunction(function) else "thread"),
            memory_limit=None if memory_limit is None else parse_size(memory_limit),
            recycle_after=1000 if recycle_after is None else recycle_after,
            aliases=tuple(aliases),
        )
        return JobFunction(function, spec)

    return declare


def parse_size(value: str | int) -> int:
    """Read a size such as "512MB" or "2GB" (of 1024s), or a number of bytes.

    Raises:
        ValueError: it is anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SIZE.fullmatch(str(value))
    if not found:
        raise ValueError(f'"{value}" is not a size: write "512MB", "2GB" or a number of bytes')
    return int(float(found[1]) * (1 << _POWERS[found[2].upper()]))


def _check_handler(kind: str, function: Callable[..., Any], executor: Executor | None) -> None:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"job {kind}: a handler returns its outcome, it does not yield")
    if inspect.isclass(function) or not callable(function):
        raise TypeError(f"job {kind}: a handler is a function")
    try:
        inspect.signature(function).bind_partial(None)
    except TypeError:
        raise TypeError(f"job {kind}: a handler takes the context first: def {function.__name__}(ctx, …)") from None
    parameters = inspect.signature(function).parameters
    if takes_argument_first(function):
        raise TypeError(f"job {kind}: a handler takes the context first: def {function.__name__}(ctx, {next(iter(parameters))}, …)")
    if any(p.kind is p.POSITIONAL_ONLY for p in list(parameters.values())[1:]):
        raise TypeError(f"job {kind}: arguments are given by name; only the context may stand before the /")
    waits = inspect.iscoroutinefunction(function)
    if executor == "async" and not waits:
        raise TypeError(f'job {kind}: executor="async" needs an async function: a plain one would block every other job')
    if executor == "thread" and waits:
        raise TypeError(f'job {kind}: executor="thread" needs a plain function; an async one runs on the event loop')


def declared_jobs(names: Mapping[str, Any]) -> list[HandlerSpec]:
    """The specs of all `@job` functions among a module's names, each once whatever names it goes by.

    Raises:
        TypeError: a module of theirs has two `@lifespan` functions.
    """
    found = {id(value): value for value in names.values() if isinstance(value, JobFunction)}
    return [replace(value.spec, lifespan=lifespan_of(value.spec.run.__module__)) for value in found.values()]
