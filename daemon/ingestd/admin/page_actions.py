"""What can be done from the page: the rooms' own actions behind plain forms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from ingestd.admin.api.workflows import require as require_workflow
from ingestd.admin.routes import Call, Route
from ingestd.admin.view import VIEW_QUERY
from ingestd.imports.actions import retry_load, skip_load
from ingestd.jobs.actions import cancel_job, retry_job
from ingestd.jobs.run_actions import cancel_run, retry_run
from ingestd.rollups.actions import refresh_now
from ingestd.schedule.actions import pause, resume, skip_next, trigger, unskip

Acted = Callable[[Call, str, str], Awaitable[web.Response]]
Act = Callable[[Call], Awaitable[str]]


async def _retry_job(call: Call) -> str:
    async with call.state.acting() as conn:
        await retry_job(conn, call.actor, call.id)
    return f"Job {call.id} will run again."


async def _cancel_job(call: Call) -> str:
    async with call.state.acting() as conn:
        done = await cancel_job(conn, call.actor, call.id)
    return f"Job {call.id} is cancelled." if done == "cancelled" else f"Job {call.id} has been asked to stop."


async def _retry_load(call: Call) -> str:
    async with call.state.acting() as conn:
        await retry_load(conn, call.actor, call.id)
    return f"Load {call.id} will run again."


async def _skip_load(call: Call) -> str:
    async with call.state.acting() as conn:
        await skip_load(conn, call.actor, call.id)
    return f"Load {call.id} is skipped; the ones behind it go on."


async def _refresh_rollup(call: Call) -> str:
    async with call.state.acting() as conn:
        await refresh_now(conn, call.actor, call.name)
    return f"Rollup {call.name} is being refreshed."


async def _trigger_schedule(call: Call) -> str:
    async with call.state.acting() as conn:
        job_id = await trigger(conn, call.actor, call.name)
    return f"Schedule {call.name} started job {job_id}."


async def _pause_schedule(call: Call) -> str:
    async with call.state.acting() as conn:
        await pause(conn, call.actor, call.name)
    return f"Schedule {call.name} is paused."


async def _resume_schedule(call: Call) -> str:
    async with call.state.acting() as conn:
        await resume(conn, call.actor, call.name)
    return f"Schedule {call.name} goes on."


async def _skip_next_slot(call: Call) -> str:
    async with call.state.acting() as conn:
        due_at = await skip_next(conn, call.actor, call.name)
    return f"Schedule {call.name} skips the slot of {due_at:%Y-%m-%d %H:%M} UTC."


async def _unskip_slot(call: Call) -> str:
    async with call.state.acting() as conn:
        await unskip(conn, call.actor, call.name)
    return f"Schedule {call.name} skips no slot."


async def _start_workflow(call: Call) -> str:
    require_workflow(call)
    assert call.state.start_workflow is not None
    async with call.state.acting() as conn:
        run = await call.state.start_workflow(conn, call.actor, call.name)
    return f"Workflow {call.name} is on its way as run {run}."


async def _retry_run(call: Call) -> str:
    async with call.state.acting() as conn:
        done = await retry_run(conn, call.actor, call.id)
    return f"Run {call.id} goes on: {', '.join(done.steps)}."


async def _cancel_run(call: Call) -> str:
    async with call.state.acting() as conn:
        await cancel_run(conn, call.actor, call.id)
    return f"Run {call.id} is being cancelled."


ACTIONS: tuple[tuple[str, Act, str, str], ...] = (
    ("/jobs/{id}/retry", _retry_job, "jobs", "Bring a job back"),
    ("/jobs/{id}/cancel", _cancel_job, "jobs", "Cancel a job"),
    ("/loads/{id}/retry", _retry_load, "loads", "Run a failed load again"),
    ("/loads/{id}/skip", _skip_load, "loads", "Give up on a load"),
    ("/rollups/{name}/refresh", _refresh_rollup, "rollups", "Refresh a rollup"),
    ("/schedules/{name}/trigger", _trigger_schedule, "schedules", "Run a schedule now"),
    ("/schedules/{name}/pause", _pause_schedule, "schedules", "Pause a schedule"),
    ("/schedules/{name}/resume", _resume_schedule, "schedules", "Resume a schedule"),
    ("/schedules/{name}/skip-next", _skip_next_slot, "schedules", "Pass over a schedule's next slot"),
    ("/schedules/{name}/unskip", _unskip_slot, "schedules", "Let it fire after all"),
    ("/workflows/runs/{id}/retry", _retry_run, "workflows", "Run again what did not succeed in a workflow run"),
    ("/workflows/runs/{id}/cancel", _cancel_run, "workflows", "Cancel a workflow run"),
    ("/workflows/{name}/start", _start_workflow, "workflows", "Start a workflow"),
)


def action_routes(acted: Acted) -> list[Route]:
    """The routes of all actions.

    Args:
        acted: answers after an action, given what happened and the section to show.
    """

    def handler(act: Act, section: str) -> Callable[[Call], Awaitable[web.StreamResponse]]:
        async def handle(call: Call) -> web.StreamResponse:
            return await acted(call, await act(call), section)

        return handle

    return [Route("POST", path, "operate", handler(act, section), summary, VIEW_QUERY) for path, act, section, summary in ACTIONS]
