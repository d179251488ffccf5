"""`/api/v1/jobs`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from ingestd.admin.routes import Call, Route, answer
from ingestd.admin.shapes import masked, page_of, read_cursor, read_moment, read_word, with_text_ids
from ingestd.errors import NotFound
from ingestd.jobs.actions import cancel_job, enqueue_job, retry_job
from ingestd.jobs.filters import read_states
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.store.reads import JobFilter, list_jobs, show_job
from ingestd.settings import Name, Priority

STATES = (*State, "partial")
FILTERS = ("state", "kind", "queue", "tag", "triggered_by", "from", "to", "limit", "cursor")
_ONLY_IN_DETAIL = ("attempts",)


class JobRequest(BaseModel):
    """The body of `POST /api/v1/jobs`."""

    model_config = ConfigDict(extra="forbid")

    kind: Annotated[str, Field(min_length=1, max_length=200)]
    args: dict[str, Any] = {}
    queue: Name | None = None
    priority: Priority | None = None
    run_at: datetime | None = None
    max_attempts: Annotated[int, Field(ge=1, le=1000)] | None = None
    unique_key: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    key: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    tags: list[Annotated[str, Field(max_length=100)]] = Field(default=[], max_length=50)
    notes: Annotated[str, Field(max_length=10_000)] | None = None
    metadata: dict[str, Any] | None = None
    correlation_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    allow_unknown: bool = False


def shape(row: Mapping[str, Any]) -> dict[str, Any]:
    """One job as lists show it."""
    shown = shape_whole(row)
    for name in _ONLY_IN_DETAIL:
        shown.pop(name, None)
    return shown


def shape_whole(row: Mapping[str, Any]) -> dict[str, Any]:
    """One job with everything there is about it."""
    shown = with_text_ids(row, ("id", "parent_id", "workflow_run"))
    for name in ("args", "result", "error", "metadata", "attempts"):
        shown[name] = masked(shown.get(name))
    return shown


async def index(call: Call) -> web.Response:
    """Jobs, newest first."""
    limit = call.limit()
    which = JobFilter(
        states=read_states(call.query.get("state"), "/state"),
        kind=call.query.get("kind"),
        queue=call.query.get("queue"),
        tag=call.query.get("tag"),
        triggered_by=call.query.get("triggered_by"),
        since=read_moment(call.query, "from"),
        until=read_moment(call.query, "to"),
        before_id=read_cursor(call.query),
    )
    async with call.state.reading() as conn:
        found = await list_jobs(conn, which, limit + 1)
    return answer(page_of(found, limit, shape, call.query))


async def show(call: Call) -> web.Response:
    """One job."""
    async with call.state.reading() as conn:
        found = await show_job(conn, call.id)
    if found is None:
        raise NotFound(f"there is no job {call.id}")
    return answer(shape_whole(found))


async def create(call: Call) -> web.Response:
    """Enqueue a job."""
    body = await call.body(JobRequest)
    job = NewJob(
        body.kind,
        body.args,
        queue=body.queue,
        priority=body.priority,
        run_at=body.run_at,
        max_attempts=body.max_attempts,
        unique_key=body.unique_key,
        key=body.key,
        tags=tuple(body.tags),
        notes=body.notes,
        metadata=body.metadata,
        correlation_id=body.correlation_id or call.actor.correlation_id,
        triggered_by=call.actor.via,
    )
    async with call.state.acting() as conn:
        job_id = await enqueue_job(conn, call.actor, job, allow_unknown=body.allow_unknown)
        made = await show_job(conn, job_id)
    location = {"Location": f"/api/v1/jobs/{job_id}"}
    # Where a unique key is held, the holder may have become final and gone out of sight between the two looks.
    return answer(shape_whole(made) if made else {"id": str(job_id)}, 201, location)


async def retry(call: Call) -> web.Response:
    """Bring a failed or cancelled job back into its queue."""
    async with call.state.acting() as conn:
        await retry_job(conn, call.actor, call.id)
        found = await show_job(conn, call.id)
    return answer(shape_whole(found or {"id": call.id}))


async def cancel(call: Call) -> web.Response:
    """Cancel a job; one that runs is asked to stop."""
    async with call.state.acting() as conn:
        done = await cancel_job(conn, call.actor, call.id)
        found = await show_job(conn, call.id)
    shown = shape_whole(found or {"id": call.id, "state": done})
    return answer(shown, 202 if done == "cancelling" else 200)


def routes() -> list[Route]:
    """This resource's routes."""
    return [
        Route("GET", "/api/v1/jobs", "read", index, "Jobs, newest first", FILTERS),
        Route("POST", "/api/v1/jobs", "operate", create, "Enqueue a job"),
        Route("GET", "/api/v1/jobs/{id}", "read", show, "One job with its attempts"),
        Route("POST", "/api/v1/jobs/{id}/retry", "operate", retry, "Bring a failed or cancelled job back"),
        Route("POST", "/api/v1/jobs/{id}/cancel", "operate", cancel, "Cancel a job, or ask it to stop"),
    ]
