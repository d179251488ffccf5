"""`/api/v1/bulk`: one thing done to every job that a filter matches."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import Field, WithJsonSchema

from ingestd.admin.answers.jobs import BulkDone, BulkStarted
from ingestd.admin.api.jobs import JobChanges, shape
from ingestd.admin.bodies import Body, Flag, Moment, Number, Span
from ingestd.admin.job_filter import read_filter, read_when
from ingestd.admin.routes import Call, Route, answer
from ingestd.jobs.actions import start_bulk
from ingestd.jobs.bulk import ACTIONS, AT_ONCE, look, plan
from ingestd.jobs.filters import MOST_IDS, JobFilter

Text = Annotated[str, Field(max_length=500)]
Id = Annotated[Number | str, Field(union_mode="left_to_right")]


class BulkFilter(Body):
    """Which jobs; what is not given means any."""

    state: Text | list[Text] | None = None
    kind: Text | None = None
    queue: Text | None = None
    tag: Text | None = None
    workflow: Text | None = None
    run: Id | None = None
    parent: Id | None = None
    error_class: Text | None = None
    error_group: Text | None = None
    triggered_by: Text | None = None
    correlation_id: Text | None = None
    from_: Text | None = Field(default=None, alias="from")
    to: Text | None = None
    finished_from: Text | None = None
    finished_to: Text | None = None
    id: Id | Annotated[list[Id], Field(max_length=MOST_IDS)] | None = None

    def filter(self) -> JobFilter:
        """The filter as the queue has it."""
        given = self.model_dump(by_alias=True, exclude_none=True)
        return read_filter({name: _text(value) for name, value in given.items()}, "/filter/")


class BulkRequest(Body):
    """The body of `POST /api/v1/bulk`."""

    action: Annotated[str, WithJsonSchema({"type": "string", "enum": [*ACTIONS]})]
    filter: BulkFilter
    preview: Flag = False
    expected: Annotated[Number, Field(ge=0)] | None = None
    run_at: Moment | None = None
    in_: Span | None = Field(default=None, alias="in")
    changes: JobChanges | None = None
    force: Flag = False


async def create(call: Call) -> web.Response:
    """Do it, or say what it would do."""
    body = await call.body(BulkRequest)
    changes = body.changes.given() if body.changes else {}
    bulk = plan(body.action, body.filter.filter(), run_at=read_when(body.run_at, body.in_), changes=changes, force=body.force)
    if body.preview:
        async with call.reading() as conn:
            found = await look(conn, bulk)
        sample = [shape(job) for job in found.sample]
        shown = {"jobs": found.jobs, "states": found.states, "kinds": found.kinds, "sample": sample, "at_once": found.jobs <= AT_ONCE}
        return answer({"action": bulk.action} | shown)
    async with call.acting() as conn:
        asked = await start_bulk(conn, call.actor, bulk, body.expected)
    if asked.job_id is None:
        return answer({"action": bulk.action, "jobs": asked.jobs, **(asked.counts or {})})
    location = {"Location": f"/api/v1/jobs/{asked.job_id}"}
    return answer({"action": bulk.action, "jobs": asked.jobs, "id": str(asked.job_id)}, 202, location)


def _text(value: Any) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)


def routes() -> list[Route]:
    """This resource's routes."""
    return [
        Route(
            "POST",
            "/api/v1/bulk",
            "operate",
            create,
            "Cancel, retry, run again, edit, delete or snooze all jobs that match",
            body=BulkRequest,
            once=True,
            answers={200: BulkDone, 202: BulkStarted},
        )
    ]
