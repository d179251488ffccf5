"""`POST /api/v1/jobs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from ingestd.admin.answers.jobs import JobMade
from ingestd.admin.api.jobs import shape_whole
from ingestd.admin.routes import Call, Route, answer
from ingestd.jobs.actions import enqueue_job
from ingestd.jobs.options import new_job
from ingestd.jobs.store.reads import show_job
from ingestd.settings import Name, Priority


class JobRequest(BaseModel):
    """The body of `POST /api/v1/jobs`; docs/enqueue.md says what each member does."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Annotated[str, Field(min_length=1, max_length=200)]
    args: dict[str, Any] | None = None
    queue: Name | None = None
    priority: Priority | None = None
    run_at: str | None = None
    delay: str | None = None
    unique_key: str | None = None
    unique_mode: str | None = None
    unique_until: str | None = None
    unique_for: str | None = None
    max_attempts: Annotated[int, Field(ge=1, le=32767)] | None = None
    timeout: str | None = None
    hard_timeout: str | None = None
    backoff: dict[str, Any] | None = None
    key: str | None = None
    key_strict: bool | None = None
    tags: list[str] | None = None
    notes: str | None = None
    metadata: dict[str, Any] | None = None
    correlation_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    parent_id: str | int | None = None
    allow_unknown: bool = False


async def create(call: Call) -> web.Response:
    """Enqueue a job: 201 with the new one, or 200 with the one that holds its unique key."""
    body = await call.body(JobRequest)
    options: Mapping[str, Any] = body.model_dump(exclude={"kind", "args", "allow_unknown"}, exclude_none=True)
    job = new_job(body.kind, body.args, {"correlation_id": call.actor.correlation_id, **options}, triggered_by=call.actor.via)
    async with call.acting() as conn:
        done = await enqueue_job(conn, call.actor, job, allow_unknown=body.allow_unknown)
        made = await show_job(conn, done.id)
    # Where a unique key is held, the holder may have become final and gone out of sight between the two looks.
    shown = shape_whole(made) if made else {"id": str(done.id)}
    said = {"existing": done.existing, "changed": done.changed}
    return answer(shown | said, 200 if done.existing else 201, {"Location": f"/api/v1/jobs/{done.id}"})


def routes() -> list[Route]:
    """This resource's routes."""
    return [
        Route("POST", "/api/v1/jobs", "operate", create, "Enqueue a job", body=JobRequest, once=True, answers={201: JobMade, 200: JobMade})
    ]
