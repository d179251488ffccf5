"""`/api/v1/jobs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from ingestd.admin.answers.base import Page
from ingestd.admin.answers.jobs import DeadGroup, Job, JobDeleted, JobWhole
from ingestd.admin.bodies import Body, Flag, Moment, Number, Span
from ingestd.admin.job_filter import WORDS, read_query, read_when
from ingestd.admin.routes import Call, Route, answer
from ingestd.admin.shapes import masked, with_text_ids
from ingestd.errors import InvalidInput, NotFound
from ingestd.jobs import actions
from ingestd.jobs.changes import changes_of
from ingestd.jobs.store.reads import dead_groups, list_jobs, show_job, show_whole
from ingestd.settings import Name, Priority, format_duration

FILTERS = (*WORDS, "before", "limit", "cursor")
DEAD_FILTERS = (*WORDS, "limit")
_ONLY_IN_DETAIL = ("attempts",)
_MASKED = ("args", "result", "error", "metadata", "attempts", "rejects", "checkpoint")
_IDS = ("id", "parent_id", "workflow_run")


class JobChanges(Body):
    """The body of `PATCH /api/v1/jobs/{id}`: what is not given stays; timeouts and notes may be null."""

    args: dict[str, Any] | None = None
    queue: Name | None = None
    priority: Priority | None = None
    run_at: Moment | None = None
    max_attempts: Annotated[Number, Field(ge=1, le=1000)] | None = None
    timeout: Span | None = None
    hard_timeout: Span | None = None
    tags: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=50)] | None = None
    notes: Annotated[str, Field(max_length=10_000)] | None = None

    def given(self) -> dict[str, Any]:
        """What is to change."""
        return changes_of(**{name: getattr(self, name) for name in sorted(self.model_fields_set)})


class When(Body):
    """A body that may say when: at a moment, or in a while."""

    run_at: Moment | None = None
    in_: Span | None = Field(default=None, alias="in")

    def moment(self) -> datetime | None:
        """The moment; None: now."""
        return read_when(self.run_at, self.in_)


class CancelRequest(Body):
    """The body of `POST /api/v1/jobs/{id}/cancel`."""

    force: Flag = False


def shape(row: Mapping[str, Any]) -> dict[str, Any]:
    """One job as lists show it."""
    shown = shape_whole(row)
    for name in _ONLY_IN_DETAIL:
        shown.pop(name, None)
    return shown


def shape_whole(row: Mapping[str, Any]) -> dict[str, Any]:
    """One job with everything there is about it."""
    shown = with_text_ids(row, _IDS)
    for name in _MASKED:
        if name in shown:
            shown[name] = masked(shown[name])
    for name in ("timeout", "hard_timeout"):
        if shown.get(name) is not None:
            shown[name] = format_duration(shown[name])
    if "children" in shown:
        shown["children"] = [with_text_ids(child, ("id",)) for child in shown["children"]]
    return shown


async def index(call: Call) -> web.Response:
    """Jobs, newest first."""
    limit, cursors = call.limit(), await call.cursors()
    which = replace(read_query(call.query), before_id=cursors.read_id() or call.before)
    async with call.reading() as conn:
        found = await list_jobs(conn, which, limit + 1)
    return answer(cursors.page(found, limit, shape))


async def dead(call: Call) -> web.Response:
    """Jobs that failed for good, by what went wrong."""
    which = read_query(call.query)
    async with call.reading() as conn:
        groups = await dead_groups(conn, which, call.limit())
    items = [masked(with_text_ids(group, ("sample",))) for group in groups]
    return answer({"items": items, "next_cursor": None})


async def show(call: Call) -> web.Response:
    """One job."""
    async with call.reading() as conn:
        found = await show_whole(conn, call.id)
    if found is None:
        raise NotFound(f"there is no job {call.id}")
    return answer(shape_whole(found))


async def retry(call: Call) -> web.Response:
    """Bring a failed or cancelled job back into its queue."""
    body = await call.body(When)
    async with call.acting() as conn:
        await actions.retry_job(conn, call.actor, call.id, body.moment())
        found = await show_job(conn, call.id)
    return answer(shape_whole(found or {"id": call.id}))


async def cancel(call: Call) -> web.Response:
    """Cancel a job; one that runs is asked to stop."""
    body = await call.body(CancelRequest)
    async with call.acting() as conn:
        done = await actions.cancel_job(conn, call.actor, call.id, force=body.force)
        found = await show_job(conn, call.id)
    shown = shape_whole(found or {"id": call.id, "state": done})
    return answer(shown, 202 if done == "cancelling" else 200)


async def again(call: Call) -> web.Response:
    """Enqueue a job like a finished one."""
    body = await call.body(When)
    async with call.acting() as conn:
        job_id = await actions.run_again(conn, call.actor, call.id, body.moment())
        made = await show_job(conn, job_id)
    return answer(shape_whole(made or {"id": job_id}), 201, {"Location": f"/api/v1/jobs/{job_id}"})


async def snooze(call: Call) -> web.Response:
    """Let a waiting job run later, or earlier."""
    body = await call.body(When)
    until = body.moment()
    if until is None:
        raise InvalidInput('say until when: "run_at", or "in" such as "2h"', pointer="/run_at")
    async with call.acting() as conn:
        await actions.snooze_job(conn, call.actor, call.id, until)
        found = await show_job(conn, call.id)
    return answer(shape_whole(found or {"id": call.id}))


async def edit(call: Call) -> web.Response:
    """Change a job that waits."""
    body = await call.body(JobChanges)
    if not body.model_fields_set:
        raise InvalidInput("say what to change: the body is empty", pointer="/")
    async with call.acting() as conn:
        await actions.edit_job(conn, call.actor, call.id, body.given())
        found = await show_whole(conn, call.id)
    return answer(shape_whole(found or {"id": call.id}))


async def delete(call: Call) -> web.Response:
    """Delete a job that does not run."""
    async with call.acting() as conn:
        was = await actions.delete_job(conn, call.actor, call.id)
    return answer({"id": str(call.id), "deleted": True, "was": was})


def routes() -> list[Route]:
    """This resource's routes."""
    return [
        Route("GET", "/api/v1/jobs", "read", index, "Jobs, newest first", FILTERS, answers={200: Page[Job]}),
        Route(
            "GET",
            "/api/v1/jobs/dead",
            "read",
            dead,
            "Jobs that failed for good, by what went wrong",
            DEAD_FILTERS,
            answers={200: Page[DeadGroup]},
        ),
        Route("GET", "/api/v1/jobs/{id}", "read", show, "One job with its attempts", answers={200: JobWhole}),
        Route("PATCH", "/api/v1/jobs/{id}", "operate", edit, "Change a job that waits", body=JobChanges, answers={200: JobWhole}),
        Route("DELETE", "/api/v1/jobs/{id}", "operate", delete, "Delete a job that does not run", answers={200: JobDeleted}),
        Route(
            "POST",
            "/api/v1/jobs/{id}/retry",
            "operate",
            retry,
            "Bring a failed or cancelled job back",
            body=When,
            once=True,
            answers={200: JobWhole},
        ),
        Route(
            "POST",
            "/api/v1/jobs/{id}/cancel",
            "operate",
            cancel,
            "Cancel a job, or ask it to stop",
            body=CancelRequest,
            once=True,
            answers={200: JobWhole, 202: JobWhole},
        ),
        Route(
            "POST",
            "/api/v1/jobs/{id}/again",
            "operate",
            again,
            "Run a finished job once more, as a new one",
            body=When,
            once=True,
            answers={201: JobWhole},
        ),
        Route(
            "POST",
            "/api/v1/jobs/{id}/snooze",
            "operate",
            snooze,
            "Let a waiting job run later, or earlier",
            body=When,
            once=True,
            answers={200: JobWhole},
        ),
    ]
