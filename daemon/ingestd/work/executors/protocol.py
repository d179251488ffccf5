"""What a runner asks of a place where handlers run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from ingestd.jobs.registry import HandlerSpec
from ingestd.work.context import Context
from ingestd.work.endings import ArgumentsDoNotFit


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an attempt may take.

    Args:
        soft: then it is told to end.
        hard: then it is killed, where that can be done.
    """

    soft: timedelta | None
    hard: timedelta | None

    @property
    def first(self) -> timedelta | None:
        """The shorter one; all there is where nothing can be killed."""
        given = [limit for limit in (self.soft, self.hard) if limit is not None]
        return min(given, default=None)


class Executor(Protocol):
    """Runs handlers elsewhere, one attempt a call."""

    async def run(self, ctx: Context, spec: HandlerSpec, limits: Limits) -> Any:
        """Run one attempt to its end.

        It puts an `Elsewhere` into `ctx.elsewhere` before it first waits, and what it measured into `ctx.usage`. The job is ours
        until this returns; cancelling it gives the attempt up.

        Returns:
            What the handler returned.

        Raises:
            AttemptFailed: it was over its time, or its process ended.
            Exception: what the handler raised.
        """
        ...

    async def close(self) -> None:
        """Give up what still runs."""
        ...


def read_models(ctx: Context, spec: HandlerSpec) -> None:
    """Give the handler its pydantic models in place of plain objects.

    Raises:
        ArgumentsDoNotFit: the objects are none of them.
    """
    args: dict[str, Any] = dict(ctx.job.args)
    for name, model in spec.models.items():
        if name in args:
            try:
                args[name] = model.model_validate(args[name])
            except ValueError as error:
                raise ArgumentsDoNotFit(f"the queued arguments do not fit the handler: {name}: {error}") from None
    ctx.job.args = args
