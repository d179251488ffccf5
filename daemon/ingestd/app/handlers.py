"""The job kinds that composition itself brings: cleanup, health, workflow, and the user's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg

from ingestd.errors import ConfigurationError
from ingestd.jobs.decorator import declared_jobs
from ingestd.jobs.model import AwaitChildren, Discard, Outcome
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.settings import RetentionSettings
from ingestd.jobs.store import partitions, reads, statistics
from ingestd.jobs.workflow import Workflow, start
from ingestd.work import store as node_store
from ingestd.work.context import Context

STATISTICS_KEPT = timedelta(days=90)
HealthReport = Callable[[], Awaitable[Mapping[str, Any]]]
Tidy = Callable[[asyncpg.Connection], Awaitable[Mapping[str, int]]]


def handlers(
    retention: Callable[[], RetentionSettings],
    workflows: Callable[[], Mapping[str, Workflow]],
    health: HealthReport,
    tidy: Sequence[Tidy],
) -> list[HandlerSpec]:
    """The kinds `cleanup`, `health` and `workflow`.

    Args:
        retention: what is kept how long, asked at each run.
        workflows: the declared workflows, asked at each run.
        health: the health report as a JSON object.
        tidy: what rooms want done at each cleanup; each answers with counts by name.
    """
    return [
        HandlerSpec("cleanup", _Cleanup(retention, tidy).run, queue="maintenance", max_attempts=2),
        HandlerSpec("health", _Health(health).run, queue="maintenance", max_attempts=1),
        HandlerSpec("workflow", _StartWorkflow(workflows).run, queue="maintenance"),
    ]


class _Cleanup:
    def __init__(self, retention: Callable[[], RetentionSettings], tidy: Sequence[Tidy]) -> None:
        self._retention = retention
        self._tidy = tidy

    async def run(self, ctx: Context) -> dict[str, Any]:
        """Make partitions ahead, drop what is past its time, fold statistics."""
        kept = self._retention()
        done: dict[str, Any] = {}
        async with ctx.db.services() as conn:
            done["partitions_made"] = await partitions.make_partitions(conn)
            done["partitions_dropped"] = len(await partitions.drop_expired(conn, kept.history, kept.failed))
            await statistics.compact(conn)
            await statistics.forget(conn, STATISTICS_KEPT)
            done["nodes_forgotten"] = await node_store.forget_nodes(conn)
            for tidy in self._tidy:
                done |= await tidy(conn)
        return done


class _Health:
    def __init__(self, health: HealthReport) -> None:
        self._health = health

    async def run(self, ctx: Context) -> Mapping[str, Any]:
        """Run every health check and keep the report as the job's result."""
        return await self._health()


class _StartWorkflow:
    def __init__(self, workflows: Callable[[], Mapping[str, Workflow]]) -> None:
        self._workflows = workflows

    async def run(self, ctx: Context, workflow: str) -> Outcome | dict[str, Any]:
        """Start a run, wait for its steps, and end as it ended."""
        async with ctx.db.services() as conn:
            if ctx.job.checkpoint is None:
                declared = self._workflows().get(workflow)
                if declared is None:
                    return Discard(f'there is no workflow "{workflow}" in the configuration any more')
                run = await start(
                    conn,
                    declared,
                    triggered_by=ctx.job.triggered_by,
                    correlation_id=ctx.job.correlation_id,
                    job_id=ctx.job.id,
                )
                return AwaitChildren({"run": run})
            (found,) = await reads.workflow_runs(conn, run=ctx.job.checkpoint["run"])
        if found["state"] in ("failed", "cancelled"):
            bad = [f"{step['step']} {step['state']}" for step in found["steps"] if step["state"] != "succeeded"]
            return Discard(f"workflow run {found['id']} {found['state']}: {', '.join(bad)}")
        if found["state"] == "partial":
            ctx.count(failed=1)
        return {"run": found["id"], "state": found["state"]}


def user_handlers(modules: Sequence[str], folder: Path) -> list[HandlerSpec]:
    """Import the user's modules and collect their `@job` functions.

    Args:
        modules: dotted names.
        folder: searched first, so that modules beside the configuration are found.

    Raises:
        ConfigurationError: a module cannot be imported or declares no job.
    """
    if modules and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    specs: list[HandlerSpec] = []
    problems: list[str] = []
    for name in modules:
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's module may raise anything while it is imported
            problems.append(f'"handlers" in [daemon]: cannot import "{name}": {type(error).__name__}: {error}')
            continue
        found = declared_jobs(vars(module))
        if not found:
            problems.append(f'"handlers" in [daemon]: module "{name}" declares no @job function')
        # a job that two modules share is one job
        specs += [spec for spec in found if spec not in specs]
    if problems:
        raise ConfigurationError(problems)
    return specs
