"""`/api/v1/workflows`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ingestd.admin.routes import Call, Route, answer
from ingestd.admin.shapes import masked, with_text_ids
from ingestd.errors import NotFound
from ingestd.jobs.store.reads import workflow_runs
from ingestd.settings import did_you_mean


def shape(run: Mapping[str, Any]) -> dict[str, Any]:
    """One run as the API shows it."""
    shown = with_text_ids(run, ("id",))
    shown["steps"] = [masked(with_text_ids(step, ("run", "job_id"))) for step in run["steps"]]
    return shown


async def index(call: Call) -> web.Response:
    """Declared workflows, each with its last run."""
    items = []
    async with call.state.reading() as conn:
        for name in sorted(call.state.workflows()):
            latest = await workflow_runs(conn, name, limit=1)
            items.append({"name": name, "last_run": shape(latest[0]) if latest else None})
    return answer({"items": items, "next_cursor": None})


async def show(call: Call) -> web.Response:
    """One workflow with its latest runs."""
    require(call)
    async with call.state.reading() as conn:
        runs = [shape(run) for run in await workflow_runs(conn, call.name, limit=call.limit(20))]
    return answer({"name": call.name, "last_run": runs[0] if runs else None, "runs": runs})


async def runs(call: Call) -> web.Response:
    """Runs of all workflows, newest first."""
    async with call.state.reading() as conn:
        found = await workflow_runs(conn, call.query.get("workflow"), limit=call.limit(20))
    return answer({"items": [shape(run) for run in found], "next_cursor": None})


async def run(call: Call) -> web.Response:
    """One run with its steps."""
    async with call.state.reading() as conn:
        found = await workflow_runs(conn, run=call.id, limit=1)
    if not found:
        raise NotFound(f"there is no workflow run {call.id}")
    return answer(shape(found[0]))


async def start(call: Call) -> web.Response:
    """Start a workflow."""
    require(call)
    assert call.state.start_workflow is not None
    async with call.state.acting() as conn:
        run_id = await call.state.start_workflow(conn, call.actor, call.name)
        found = await workflow_runs(conn, run=run_id, limit=1)
    return answer(shape(found[0]), 201, {"Location": f"/api/v1/workflows/runs/{run_id}"})


def require(call: Call) -> None:
    """Refuse a workflow that is not declared.

    Raises:
        NotFound: it is not.
    """
    declared = call.state.workflows()
    if call.name not in declared or call.state.start_workflow is None:
        raise NotFound(f'there is no workflow "{call.name}"{did_you_mean(call.name, declared)}')


def routes() -> list[Route]:
    """This resource's routes."""
    return [
        Route("GET", "/api/v1/workflows", "read", index, "Declared workflows and their last run"),
        Route("GET", "/api/v1/workflows/runs", "read", runs, "Workflow runs, newest first", ("workflow", "limit")),
        Route("GET", "/api/v1/workflows/runs/{id}", "read", run, "One run with its steps"),
        Route("GET", "/api/v1/workflows/{name}", "read", show, "One workflow with its latest runs", ("limit",)),
        Route("POST", "/api/v1/workflows/{name}/start", "operate", start, "Start a workflow"),
    ]
