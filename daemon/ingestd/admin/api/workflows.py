"""`/api/v1/workflows`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic import Field

from ingestd.admin.answers.base import Anything, Page
from ingestd.admin.answers.plans import WorkflowRun, WorkflowShown, WorkflowWhole
from ingestd.admin.bodies import Body, Flag
from ingestd.admin.routes import Call, Route, answer
from ingestd.admin.shapes import masked, with_text_ids
from ingestd.errors import NotFound
from ingestd.jobs.plan import plan
from ingestd.jobs.run_actions import cancel_run, retry_run
from ingestd.jobs.store import queues, steps
from ingestd.jobs.store.reads import workflow_runs
from ingestd.jobs.workflow import Workflow
from ingestd.settings import did_you_mean


class StartBody(Body):
    """Body of POST …/start."""

    dry_run: Flag = False


class RetryBody(Body):
    """Body of POST …/retry."""

    step: str | None = Field(default=None, min_length=1, max_length=200)


class CancelBody(Body):
    """Body of POST …/cancel."""

    undo: Flag = False


def shape(run: Mapping[str, Any]) -> dict[str, Any]:
    """One run as the API shows it."""
    shown = with_text_ids(run, ("id",))
    shown["steps"] = [masked(with_text_ids(step, ("run", "job_id"))) for step in run["steps"]]
    return shown


async def index(call: Call) -> web.Response:
    """Declared workflows, each with its last run."""
    items = []
    async with call.reading() as conn:
        for name, declared in sorted(call.state.workflows().items()):
            latest = await workflow_runs(conn, name, limit=1)
            steps_of = [step.name for step in declared.steps]
            items.append({"name": name, "steps": steps_of, "overlap": declared.overlap, "last_run": shape(latest[0]) if latest else None})
    return answer({"items": items, "next_cursor": None})


async def show(call: Call) -> web.Response:
    """One workflow with its latest runs."""
    require(call)
    async with call.reading() as conn:
        runs = [shape(run) for run in await workflow_runs(conn, call.name, limit=call.limit(20))]
    return answer({"name": call.name, "last_run": runs[0] if runs else None, "runs": runs})


async def runs(call: Call) -> web.Response:
    """Runs of all workflows, newest first."""
    limit, cursors = call.limit(20), await call.cursors()
    async with call.reading() as conn:
        found = await workflow_runs(conn, call.query.get("workflow"), limit=limit + 1, before_id=cursors.read_id())
    return answer(cursors.page(found, limit, shape))


async def run(call: Call) -> web.Response:
    """One run with its steps."""
    async with call.reading() as conn:
        found = await workflow_runs(conn, run=call.id, limit=1)
    if not found:
        raise NotFound(f"there is no workflow run {call.id}")
    return answer(shape(found[0]))


async def start(call: Call) -> web.Response:
    """Start a workflow, or tell what a start would do."""
    require(call)
    if (await call.body(StartBody)).dry_run:
        return await show_plan(call)
    assert call.state.start_workflow is not None
    async with call.acting() as conn:
        run_id = await call.state.start_workflow(conn, call.actor, call.name)
        found = await workflow_runs(conn, run=run_id, limit=1)
    return answer(shape(found[0]), 201, {"Location": f"/api/v1/workflows/runs/{run_id}"})


async def show_plan(call: Call) -> web.Response:
    """What a start would do: layers, queues, what waits for what, and what happens on failure."""
    require(call)
    declared = call.state.workflows()[call.name]
    assert isinstance(declared, Workflow)
    async with call.reading() as conn:
        lanes = {row["name"]: row["queue"] for row in await queues.kinds(conn)}
        busy = await steps.open_run(conn, call.name)
    planned = plan(declared, lanes, busy["id"] if busy else None)
    return answer(masked(with_text_ids(planned, ("busy_run",))))


async def retry(call: Call) -> web.Response:
    """Run again what did not succeed."""
    body = await call.body(RetryBody)
    async with call.acting() as conn:
        done = await retry_run(conn, call.actor, call.id, body.step)
        found = await workflow_runs(conn, run=call.id, limit=1)
    return answer(shape(found[0]) | {"retried": list(done.steps)})


async def cancel(call: Call) -> web.Response:
    """Cancel what has not ended."""
    body = await call.body(CancelBody)
    async with call.acting() as conn:
        await cancel_run(conn, call.actor, call.id, undo=body.undo)
        found = await workflow_runs(conn, run=call.id, limit=1)
    return answer(shape(found[0]))


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
        Route("GET", "/api/v1/workflows", "read", index, "Declared workflows and their last run", answers={200: Page[WorkflowShown]}),
        Route(
            "GET",
            "/api/v1/workflows/runs",
            "read",
            runs,
            "Workflow runs, newest first",
            ("workflow", "limit", "cursor"),
            answers={200: Page[WorkflowRun]},
        ),
        Route("GET", "/api/v1/workflows/runs/{id}", "read", run, "One run with its steps", answers={200: WorkflowRun}),
        Route(
            "POST",
            "/api/v1/workflows/runs/{id}/retry",
            "operate",
            retry,
            "Run again what did not succeed in a run that has ended",
            once=True,
            answers={200: WorkflowRun},
            body=RetryBody,
        ),
        Route(
            "POST",
            "/api/v1/workflows/runs/{id}/cancel",
            "operate",
            cancel,
            "Cancel what has not ended of a run",
            once=True,
            answers={200: WorkflowRun},
            body=CancelBody,
        ),
        Route(
            "GET", "/api/v1/workflows/{name}", "read", show, "One workflow with its latest runs", ("limit",), answers={200: WorkflowWhole}
        ),
        Route("GET", "/api/v1/workflows/{name}/plan", "read", show_plan, "What a start would do, without doing it"),
        Route(
            "POST",
            "/api/v1/workflows/{name}/start",
            "operate",
            start,
            "Start a workflow",
            once=True,
            answers={201: WorkflowRun, 200: Anything},
            body=StartBody,
        ),
    ]
