"""`/api/v1/schedules`, and `/api/v1/downtimes`: times in which nothing fired them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ingestd.admin.answers.base import Page, Started
from ingestd.admin.answers.plans import Downtime, Schedule, ScheduleDeleted, ScheduleWhole, Slot, Upcoming
from ingestd.admin.bodies import Body, Flag, Span, Why, only_text
from ingestd.admin.parameters import MAX_LIMIT, MOMENT, Parameter
from ingestd.admin.routes import Call, Route, answer
from ingestd.admin.shapes import masked, parse, read_local, read_moment, with_text_ids
from ingestd.errors import InvalidInput, UsageError
from ingestd.schedule import actions
from ingestd.schedule.definitions import Definitions
from ingestd.schedule.preview import MOST, next_slots, read_slot_states
from ingestd.schedule.store.reads import find_schedule, list_downtimes, list_schedules, list_slots, require_ever_declared

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Keys(BaseModel):
    """The body of PATCH …: keys of a schedule as in the configuration, checked in its words."""

    model_config = ConfigDict(extra="allow")

    def given(self) -> dict[str, Any]:
        """The keys."""
        return dict(self.model_extra or {})


class NewSchedule(Keys):
    """The body of POST /api/v1/schedules."""

    name: Annotated[str, Field(max_length=200)]


class PauseRequest(Why):
    """The body of POST …/pause."""

    until: Annotated[datetime | None, BeforeValidator(only_text)] = None
    for_: Span | None = Field(default=None, alias="for")


class ResumeRequest(Body):
    """The body of POST …/resume."""

    from_now: Flag = False


def shape(row: Mapping[str, Any]) -> dict[str, Any]:
    """One schedule as lists show it."""
    shown = shape_whole(row)
    del shown["spec"]
    return shown


def shape_whole(row: Mapping[str, Any]) -> dict[str, Any]:
    """One schedule, and what its owner wrote."""
    shown = dict(row)
    shown["args"], shown["spec"] = masked(shown["args"]), masked(shown["spec"])
    if shown["last_slot"] is not None:
        shown["last_slot"] = shape_slot(shown["last_slot"])
    return shown


def shape_slot(row: Mapping[str, Any]) -> dict[str, Any]:
    """One slot."""
    return with_text_ids(row, ("job_id",))


async def index(call: Call) -> web.Response:
    """Schedules, by name."""
    limit, cursors = call.limit(MAX_LIMIT), await call.cursors()
    async with call.reading() as conn:
        found = await list_schedules(conn, None, cursors.read_name(), limit + 1)
    more, found = len(found) > limit, found[:limit]
    cursor = cursors.write(found[-1]["name"]) if more else None
    return answer({"items": [shape(row) for row in found], "next_cursor": cursor})


async def show(call: Call) -> web.Response:
    """One schedule."""
    async with call.reading() as conn:
        return answer(shape_whole(await find_schedule(conn, call.name)))


async def create(call: Call) -> web.Response:
    """Put a new schedule in service."""
    body = await call.body(NewSchedule)
    async with call.acting() as conn:
        await _definitions(call).create(conn, call.actor, body.name, body.given())
        made = shape_whole(await find_schedule(conn, body.name))
    return answer(made, 201, {"Location": f"/api/v1/schedules/{body.name}"})


async def edit(call: Call) -> web.Response:
    """Change keys of a schedule that is not the file's."""
    body = await call.body(Keys)
    async with call.acting() as conn:
        changed = await _definitions(call).edit(conn, call.actor, call.name, body.given())
        return answer(shape_whole(await find_schedule(conn, call.name)) | {"changed": changed})


async def delete(call: Call) -> web.Response:
    """Take a schedule out of service that is not the file's."""
    why = parse(Why, {"reason": call.query.get("reason")})
    async with call.acting() as conn:
        await _definitions(call).delete(conn, call.actor, call.name, why.reason)
    return answer({"name": call.name, "deleted": True})


def _definitions(call: Call) -> Definitions:
    assert call.state.definitions is not None
    return call.state.definitions


async def upcoming(call: Call) -> web.Response:
    """The slots to come of a schedule."""
    count, start = call.number("count", 10, 1, MOST), read_local(call.query, "from")
    async with call.reading() as conn:
        found = await next_slots(conn, call.name, count, start)
    # With the offset of the schedule's own time zone, which is what the note is about.
    items = [{"at": slot.at.isoformat(), "note": slot.note} for slot in found]
    return answer({"items": items, "next_cursor": None})


async def slots(call: Call) -> web.Response:
    """The slots of a schedule, newest first."""
    limit, cursors = call.limit(30), await call.cursors()
    mark = cursors.read_id()
    try:
        states = read_slot_states(call.query.get("state"), "state")
        before = read_moment(call.query, "before") if mark is None else _EPOCH + mark * _MICROSECOND
    except InvalidInput as error:
        raise UsageError(error.message) from None
    except OverflowError:
        raise UsageError("the cursor is not valid; start again without it") from None
    async with call.reading() as conn:
        await require_ever_declared(conn, call.name)
        found = await list_slots(conn, call.name, states, before, limit + 1)
    more, found = len(found) > limit, found[:limit]
    cursor = cursors.write((found[-1]["due_at"] - _EPOCH) // _MICROSECOND) if more else None
    return answer({"items": [shape_slot(slot) for slot in found], "next_cursor": cursor})


async def trigger(call: Call) -> web.Response:
    """Run a schedule's target now."""
    why = await call.body(Why)
    async with call.acting() as conn:
        job_id = await actions.trigger(conn, call.actor, call.name, why.reason)
    return answer({"job_id": str(job_id)}, 202, {"Location": f"/api/v1/jobs/{job_id}"})


async def pause(call: Call) -> web.Response:
    """Skip a schedule's slots from now on."""
    body = await call.body(PauseRequest)
    async with call.acting() as conn:
        changed = await actions.pause(conn, call.actor, call.name, body.reason, until=body.until, lasting=body.for_)
        return answer(shape_whole(await find_schedule(conn, call.name)) | {"changed": changed})


async def resume(call: Call) -> web.Response:
    """Let a schedule fire again."""
    body = await call.body(ResumeRequest)
    async with call.acting() as conn:
        changed = await actions.resume(conn, call.actor, call.name, from_now=body.from_now)
        return answer(shape_whole(await find_schedule(conn, call.name)) | {"changed": changed})


async def skip_next(call: Call) -> web.Response:
    """Pass over a schedule's next slot."""
    why = await call.body(Why)
    async with call.acting() as conn:
        await actions.skip_next(conn, call.actor, call.name, why.reason)
        return answer(shape_whole(await find_schedule(conn, call.name)))


async def unskip(call: Call) -> web.Response:
    """Let the slot fire that was to be passed over."""
    async with call.acting() as conn:
        changed = await actions.unskip(conn, call.actor, call.name)
        return answer(shape_whole(await find_schedule(conn, call.name)) | {"changed": changed})


async def downtimes(call: Call) -> web.Response:
    """Times in which nothing fired slots, newest first."""
    limit, cursors = call.limit(30), await call.cursors()
    async with call.reading() as conn:
        found = await list_downtimes(conn, cursors.read_id() or call.before, limit + 1)
    return answer(cursors.page(found, limit, lambda row: with_text_ids(row, ("id",))))


def routes() -> list[Route]:
    """This resource's routes."""
    one = "/api/v1/schedules/{name}"
    return [
        Route(
            "GET",
            "/api/v1/schedules",
            "read",
            index,
            "Schedules with their next and last slot",
            ("limit", "cursor"),
            answers={200: Page[Schedule]},
        ),
        Route("POST", "/api/v1/schedules", "operate", create, "Make a schedule", body=NewSchedule, once=True, answers={201: ScheduleWhole}),
        Route("GET", one, "read", show, "One schedule", answers={200: ScheduleWhole}),
        Route("PATCH", one, "operate", edit, "Change a schedule that is not the file's", body=Keys, answers={200: ScheduleWhole}),
        Route(
            "DELETE",
            one,
            "operate",
            delete,
            "Take a schedule that is not the file's out of service",
            ("reason",),
            answers={200: ScheduleDeleted},
        ),
        Route("GET", f"{one}/next", "read", upcoming, "Its slots to come", ("count", "from"), answers={200: Page[Upcoming]}),
        Route(
            "GET",
            f"{one}/slots",
            "read",
            slots,
            "Its slots, newest first",
            ("state", "before", "limit", "cursor"),
            words={"before": Parameter("Only slots due before this moment.", MOMENT)},
            answers={200: Page[Slot]},
        ),
        Route("POST", f"{one}/trigger", "operate", trigger, "Run it now", body=Why, once=True, answers={202: Started}),
        Route(
            "POST",
            f"{one}/pause",
            "operate",
            pause,
            "Skip its slots from now on, or until a moment",
            body=PauseRequest,
            once=True,
            answers={200: ScheduleWhole},
        ),
        Route("POST", f"{one}/resume", "operate", resume, "Let it fire again", body=ResumeRequest, once=True, answers={200: ScheduleWhole}),
        Route(
            "POST", f"{one}/skip-next", "operate", skip_next, "Skip its next slot, once", body=Why, once=True, answers={200: ScheduleWhole}
        ),
        Route(
            "DELETE",
            f"{one}/skip-next",
            "operate",
            unskip,
            "Let the slot fire after all that was to be skipped",
            answers={200: ScheduleWhole},
        ),
        Route(
            "GET",
            "/api/v1/downtimes",
            "read",
            downtimes,
            "Times in which nothing fired slots",
            ("before", "limit", "cursor"),
            answers={200: Page[Downtime]},
        ),
    ]
