"""Workflows and their runs."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from ingestd.app.targets import target_job
from ingestd.cli.shell import Shell
from ingestd.cli.sources import base
from ingestd.errors import NotFound
from ingestd.jobs import run_actions
from ingestd.jobs.plan import plan
from ingestd.jobs.store import queues, reads
from ingestd.jobs.store import steps as step_store
from ingestd.jobs.workflow import Workflow
from ingestd.settings import did_you_mean


class Near(base.Near):
    """In the database, and as the configuration declares them."""

    async def workflows(self) -> list[dict[str, Any]]:
        """The declared workflows and their last run."""
        found = []
        for name in sorted(self.settings.workflows):
            declared, runs = self._declared(name), await reads.workflow_runs(self.conn, name, limit=1)
            steps = [step.name for step in declared.steps]
            found.append({"name": name, "steps": steps, "overlap": declared.overlap, "last_run": runs[0] if runs else None})
        return found

    async def start(self, name: str) -> tuple[str, bool]:
        """Start a run: its id, and whether it waits for the one before it."""
        run = await run_actions.start_run(self.conn, self.actor, self._declared(name))
        found = await step_store.find_run(self.conn, run)
        return str(run), found is not None and found["state"] == "waiting"

    async def plan(self, name: str) -> dict[str, Any]:
        """What a start would do."""
        declared = self._declared(name)
        lanes = {row["name"]: row["queue"] for row in await queues.kinds(self.conn)}
        busy = await step_store.open_run(self.conn, name)
        planned = plan(declared, lanes, busy["id"] if busy else None)
        return planned | {"busy_run": planned["busy_run"] and str(planned["busy_run"])}

    async def run(self, run: int) -> dict[str, Any]:
        """One run with its steps."""
        found = await reads.workflow_runs(self.conn, run=run)
        if not found:
            raise NotFound(f"there is no workflow run {run}")
        return found[0]

    async def retry(self, run: int, step: str) -> tuple[str, list[str]]:
        """Run again what did not succeed: its state then, and which steps that are."""
        done = await run_actions.retry_run(self.conn, self.actor, run, step or None)
        return done.state, list(done.steps)

    async def cancel(self, run: int, *, undo: bool) -> str:
        """`cancelling`, or `compensating` where something is taken back."""
        return await run_actions.cancel_run(self.conn, self.actor, run, undo=undo)

    def _declared(self, name: str) -> Workflow:
        declared = self.settings.workflows.get(name)
        if declared is None:
            raise NotFound(f'there is no workflow "{name}"{did_you_mean(name, self.settings.workflows)}')
        return declared.compile(name, target_job)


class Far(base.Far):
    """At a daemon."""

    async def workflows(self) -> list[dict[str, Any]]:
        """The declared workflows and their last run."""
        return base.items(await self.api.get("/api/v1/workflows"))

    async def start(self, name: str) -> tuple[str, bool]:
        """Start a run: its id, and whether it waits for the one before it."""
        run = await self.api.post("/api/v1/workflows/{name}/start", name=name)
        return str(run["id"]), run["state"] == "waiting"

    async def plan(self, name: str) -> dict[str, Any]:
        """What a start would do."""
        return base.row(await self.api.get("/api/v1/workflows/{name}/plan", name=name))

    async def run(self, run: int) -> dict[str, Any]:
        """One run with its steps."""
        return base.row(await self.api.get("/api/v1/workflows/runs/{id}", id=run))

    async def retry(self, run: int, step: str) -> tuple[str, list[str]]:
        """Run again what did not succeed: its state then, and which steps that are."""
        done = await self.api.post("/api/v1/workflows/runs/{id}/retry", {"step": step or None}, id=run)
        return str(done["state"]), list(done["retried"])

    async def cancel(self, run: int, *, undo: bool) -> str:
        """`cancelling`, or `compensating` where something is taken back."""
        done = await self.api.post("/api/v1/workflows/runs/{id}/cancel", {"undo": undo}, id=run)
        return "compensating" if done["state"] == "compensating" else "cancelling"


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
