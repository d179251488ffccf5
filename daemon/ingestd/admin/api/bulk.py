"""`/api/v1/bulk`: one thing done to every job that a filter matches."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import BeforeValidator, Field, WithJsonSchema

from ingestd.admin.answers.jobs import BulkDone, BulkStarted
from ingestd.admin.api.jobs import JobChanges, shape
from ingestd.admin.bodies import Body, Flag, Moment, Number, Span
from ingestd.admin.job_filter import read_filter, read_when
from ingestd.admin.routes import Call, Route, answer
from ingestd.jobs.actions import start_bulk
from ingestd.jobs.bulk import ACTIONS, AT_ONCE, look, plan
from ingestd.jobs.filters import MOST_IDS, JobFilter


def _words(value: Any) -> Any:
    """One word or a list of them, as the filter reads them."""
    given = value if isinstance(value, list) else [value]
    if not given:
        # Left to itself it would choose nothing, and so mean any: whoever looked for jobs and found none does not mean all.
        raise ValueError("is an empty list: leave it out if you mean any")
    if any(not isinstance(word, str) or not word for word in given):
        raise ValueError("must be a word, or a list of words")
    return ",".join(given)


def _ids(value: Any) -> Any:
    given = value if isinstance(value, list) else [value]
    if len(given) > MOST_IDS:
        raise ValueError(f"takes at most {MOST_IDS:,} ids at once")
    return _words([str(one) if type(one) is int else one for one in given])


ID_SCHEMA: Any = {"type": ["string", "integer"]}
Text = Annotated[str, Field(min_length=1, max_length=500)]
Words = Annotated[
    str,
    BeforeValidator(_words),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
Id = Annotated[str, BeforeValidator(_ids), WithJsonSchema(ID_SCHEMA)]
Ids = Annotated[
    str,
    BeforeValidator(_ids),
    WithJsonSchema({"anyOf": [ID_SCHEMA, {"type": "array", "items": ID_SCHEMA, "minItems": 1, "maxItems": MOST_IDS}]}),
]


class BulkFilter(Body):
    """Which jobs; what is not given means any."""

    state: Words | None = None
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
    id: Ids | None = None

    def filter(self) -> JobFilter:
        """The filter as the queue has it."""
        given = self.model_dump(by_alias=True, exclude_none=True)
        return read_filter(given, "/filter/")


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
