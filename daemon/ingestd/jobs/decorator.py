"""`@job`: declares a function as a kind of job without registering it anywhere."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Generic, Literal, ParamSpec, TypeVar

from ingestd.jobs.backoff import Backoff
from ingestd.jobs.client import Handle, current_client
from ingestd.jobs.registry import HandlerSpec
from ingestd.settings import parse_duration, parse_name, parse_priority

P = ParamSpec("P")
R = TypeVar("R")


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
            InvalidInput: its queue does not exist.
        """
        inspect.signature(self._function).bind(None, **args)
        spec = self.spec
        # The code is at hand: whether a node has published the kind already does not matter, nor what it published.
        return await current_client().enqueue(
            spec.kind, args, queue=spec.queue, priority=spec.priority, max_attempts=spec.max_attempts, allow_unknown=True
        )


def job(
    kind: str,
    *,
    queue: str = "default",
    priority: int | str = 0,
    max_attempts: int = 4,
    timeout: str | timedelta | None = None,
    backoff: Backoff | None = None,
) -> Callable[[Callable[P, R]], JobFunction[P, R]]:
    """Declare a kind of job.

    Args:
        kind: the name jobs are enqueued under.
        queue: its lane.
        priority: low, normal, high or -100..100.
        max_attempts: a first try and its retries.
        timeout: a duration such as "10m" after which an attempt is cancelled.
        backoff: waits between attempts; default 1, 2, 4, 8 … minutes, capped at an hour.

    Returns:
        A decorator for `async def handler(ctx, **args)`, or a plain `def`, which then runs in a thread.

    Raises:
        TypeError: it stands above something that cannot be a handler.
        ValueError: an option makes no sense.
    """
    if not isinstance(kind, str):
        raise TypeError('a job needs a name: write @job("name")')
    parse_name(kind)
    parse_name(queue)
    if max_attempts < 1:
        raise ValueError(f"max_attempts of job {kind} must be 1 or more: the first try counts")

    def declare(function: Callable[P, R]) -> JobFunction[P, R]:
        _check_handler(kind, function)
        executor: Literal["async", "thread"] = "async" if inspect.iscoroutinefunction(function) else "thread"
        spec = HandlerSpec(
            kind,
            function,
            queue=queue,
            priority=parse_priority(priority),
            max_attempts=max_attempts,
            timeout=None if timeout is None else parse_duration(timeout),
            backoff=backoff or Backoff(),
            executor=executor,
        )
        return JobFunction(function, spec)

    return declare


def _check_handler(kind: str, function: Callable[..., Any]) -> None:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"job {kind}: a handler returns its outcome, it does not yield")
    if inspect.isclass(function) or not callable(function):
        raise TypeError(f"job {kind}: a handler is a function")
    try:
        inspect.signature(function).bind_partial(None)
    except TypeError:
        raise TypeError(f"job {kind}: a handler takes the context first: def {function.__name__}(ctx, …)") from None


def declared_jobs(names: Mapping[str, Any]) -> list[HandlerSpec]:
    """The specs of all `@job` functions among a module's names, each once whatever names it goes by."""
    found = {id(value): value.spec for value in names.values() if isinstance(value, JobFunction)}
    return list(found.values())
