"""The job kinds that composition itself brings: cleanup, health, maintenance, workflow, and the user's own."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from ingestd.app import cleanup
from ingestd.app.import_trouble import why_not_imported
from ingestd.app.upkeep import FORGOTTEN, upkeep
from ingestd.errors import AlreadyRunning, ConfigurationError, Conflict, StaleClaim
from ingestd.jobs.course import OPEN_RUN
from ingestd.jobs.decorator import declared_jobs
from ingestd.jobs.model import AwaitChildren, Discard, Outcome, State
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.settings import RetentionSettings
from ingestd.jobs.store import ack, partitions, reads
from ingestd.jobs.workflow import Workflow, start
from ingestd.settings import did_you_mean
from ingestd.work.context import Context

# What this program runs itself; a handler of a user's under one of these names would never be called.
BUILT_IN = frozenset({"bulk", "cleanup", "health", "import", "load", "maintenance", "rollup", "workflow"})
CLOSE_S = 5.0
REASON_CHARS = 1000
HealthReport = Callable[[], Awaitable[Mapping[str, Any]]]
Tidy = Callable[[asyncpg.Connection], Awaitable[Mapping[str, int]]]


def handlers(
    retention: Callable[[], RetentionSettings],
    workflows: Callable[[], Mapping[str, Workflow]],
    health: HealthReport,
    tidy: Sequence[Tidy],
) -> list[HandlerSpec]:
    """The kinds `cleanup`, `health`, `maintenance` and `workflow`.

    Args:
        retention: what is kept how long, asked at each run.
        workflows: the declared workflows, asked at each run.
        health: the health report as a JSON object.
        tidy: what rooms want done at each cleanup; each answers with counts by name.
    """
    return [
        HandlerSpec("cleanup", _Cleanup(retention, tidy).run, queue="maintenance", max_attempts=2, arguments=_DAYS),
        HandlerSpec("health", _Health(health).run, queue="maintenance", max_attempts=1),
        HandlerSpec("maintenance", _maintain, queue="maintenance", max_attempts=2),
        HandlerSpec("workflow", _StartWorkflow(workflows).run, queue="maintenance"),
    ]


_DAYS = {
    "type": "object",
    "properties": {"days": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": cleanup.LONGEST_DAYS}, {"type": "null"}]}},
    "additionalProperties": False,
}


class _Cleanup:
    def __init__(self, retention: Callable[[], RetentionSettings], tidy: Sequence[Tidy]) -> None:
        self._retention = retention
        self._tidy = tidy

    async def run(self, ctx: Context, days: int | None = None) -> dict[str, Any]:
        """Make partitions ahead, and forget what is past its time."""
        done: dict[str, Any] = {}
        async with ctx.db.services() as conn:
            done["partitions_made"] = await partitions.make_partitions(conn)
            for tidy in self._tidy:
                done |= await tidy(conn)
        if ctx.db.sessionless:
            return done | {"skipped": cleanup.NEEDS_DIRECT_URL}
        # One of its own: a partition is not detached within a pool's statement timeout, nor through a pooler.
        own = await ctx.db.connect("cleanup")
        try:
            cleared = await cleanup.clean(own, self._retention(), days=days)
        except AlreadyRunning as error:
            return done | {"skipped": error.message}
        finally:
            await own.close(timeout=CLOSE_S)
        return done | cleanup.document(cleared, dry_run=False)


class _Health:
    def __init__(self, health: HealthReport) -> None:
        self._health = health

    async def run(self, ctx: Context) -> Mapping[str, Any]:
        """Run every health check and keep the report as the job's result."""
        return await self._health()


async def _maintain(ctx: Context) -> dict[str, Any]:
    """What nodes do each minute, at once and further back."""
    async with ctx.db.services() as conn:
        return {**await upkeep(conn, FORGOTTEN)}


class _StartWorkflow:
    def __init__(self, workflows: Callable[[], Mapping[str, Workflow]]) -> None:
        self._workflows = workflows

    async def run(self, ctx: Context, workflow: str) -> Outcome | dict[str, Any] | None:
        """Start a run, wait for its steps, and end as it ended; skipped where an earlier run is open and must be the only one."""
        if ctx.job.checkpoint is None:
            declared = self._workflows().get(workflow)
            if declared is None:
                return Discard(f'there is no workflow "{workflow}" in the configuration any more')
            try:
                return AwaitChildren(await self._start(ctx, declared))
            except Conflict as busy:
                await _end(ctx, State.SKIPPED, busy.message)
                return None
        async with ctx.db.services() as conn:
            (found,) = await reads.workflow_runs(conn, run=ctx.job.checkpoint["run"])
        if found["state"] in OPEN_RUN:
            # The process that started it died before it could say that it waits.
            return AwaitChildren(ctx.job.checkpoint)
        if found["state"] in ("failed", "cancelled"):
            bad = [f"{step['step']} {step['state']}" for step in found["steps"] if step["state"] != "succeeded"]
            reason = f"workflow run {found['id']} {found['state']}: {', '.join(bad)}"[:REASON_CHARS]
            if found["state"] == "failed":
                return Discard(reason)
            await _end(ctx, State.CANCELLED, reason)
            return None
        if found["state"] == "partial":
            ctx.count(failed=1)
        return {"run": found["id"], "state": found["state"]}

    async def _start(self, ctx: Context, workflow: Workflow) -> dict[str, int]:
        """The run and the note of it in one transaction: a process that dies in between does not start another."""
        note: dict[str, int] = {}
        async with ctx.step(note) as conn:
            job = ctx.job
            note["run"] = await start(
                conn, workflow, triggered_by=job.triggered_by, correlation_id=job.correlation_id, job_id=job.id, slot=job.slot
            )
        return note


async def _end(ctx: Context, state: State, reason: str) -> None:
    """End a running job as skipped or cancelled: nothing has failed."""
    job = ctx.job
    ended = ack.Result(job.id, job.claim, state, reason=reason, started_at=ctx.started_at, duration_ms=ctx.elapsed_ms())
    async with ctx.db.services() as conn:
        if job.id not in await ack.ack(conn, [ended]):
            raise StaleClaim(f"job {job.id} belongs to somebody else")
    ctx.completed_elsewhere(state, reason=reason)


def user_handlers(modules: Sequence[str], folders: Sequence[Path]) -> list[HandlerSpec]:
    """Import the user's modules and collect their `@job` functions.

    Args:
        modules: dotted names.
        folders: searched before what is installed, in this order.

    Raises:
        ConfigurationError: a module cannot be imported or declares no job, or a job has the name of another or of one of ours.
    """
    if modules:
        sys.path[:0] = [name for folder in folders if (name := str(folder)) not in sys.path]
    specs: list[HandlerSpec] = []
    problems: list[str] = []
    for name in modules:
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's module may raise anything while it is imported
            problems.append(f'"handlers" in [daemon]: {why_not_imported(name, error, folders)}')
            continue
        try:
            found = declared_jobs(vars(module))
        except TypeError as error:
            problems.append(f'"handlers" in [daemon]: {error}')
            continue
        if not found:
            problems.append(f'"handlers" in [daemon]: module "{name}" declares no @job function')
        # a job that two modules share is one job
        specs += [spec for spec in found if spec not in specs]
    names = Counter(name for spec in specs for name in (spec.kind, *spec.aliases))
    problems += [
        f'"handlers" in [daemon]: two handlers for kind "{name}"; give one of them another name' for name in names if names[name] > 1
    ]
    problems += [
        f'"handlers" in [daemon]: the kind "{name}" is one of ingestd\'s own; give yours another name' for name in names if name in BUILT_IN
    ]
    if problems:
        raise ConfigurationError(problems)
    return specs


def homeless(specs: Iterable[HandlerSpec], queues: Collection[str]) -> list[str]:
    """Kinds whose queue is not declared, so that none of their jobs can be enqueued, one line each."""
    return [
        f'the kind "{spec.kind}" is declared with queue="{spec.queue}", and there is no [queues.{spec.queue}]'
        f"{did_you_mean(spec.queue, queues)}: its jobs cannot be enqueued without another queue"
        for spec in specs
        if spec.queue not in queues
    ]
