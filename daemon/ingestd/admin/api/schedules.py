"""`/api/v1/schedules`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import asyncpg
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from ingestd.admin.routes import Call, Route, answer
from ingestd.admin.shapes import masked, with_text_ids
from ingestd.errors import NotFound
from ingestd.schedule.actions import pause as pause_schedule
from ingestd.schedule.actions import resume as resume_schedule
from ingestd.schedule.actions import trigger as trigger_schedule
from ingestd.schedule.store.reads import list_schedules, recent_slots


class Why(BaseModel):
    """The body of an action that may be explained."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(max_length=1000)] | None = None


def shape(row: Mapping[str, Any]) -> dict[str, Any]:
    """One schedule as the API shows it."""
    shown = dict(row)
    shown["args"] = masked(shown.get("args"))
    if shown["last_slot"] is not None:
        shown["last_slot"] = with_text_ids(shown["last_slot"], ("job_id",))
    return shown


async def _find(conn: asyncpg.Connection, name: str) -> dict[str, Any]:
    found = await list_schedules(conn, name)
    if not found:
        raise NotFound(f'there is no schedule "{name}"')
    return shape(found[0])


async def index(call: Call) -> web.Response:
    """All schedules."""
    async with call.state.reading() as conn:
        items = [shape(row) for row in await list_schedules(conn)]
    return answer({"items": items, "next_cursor": None})


async def show(call: Call) -> web.Response:
    """One schedule."""
    async with call.state.reading() as conn:
        return answer(await _find(conn, call.name))


async def slots(call: Call) -> web.Response:
    """The latest slots of a schedule, newest first."""
    async with call.state.reading() as conn:
        await _find(conn, call.name)
        found = await recent_slots(conn, call.name, call.limit(30))
    return answer({"items": [with_text_ids(slot, ("job_id",)) for slot in found], "next_cursor": None})


async def trigger(call: Call) -> web.Response:
    """Run a schedule's target now."""
    why = await call.body(Why)
    async with call.state.acting() as conn:
        job_id = await trigger_schedule(conn, call.actor, call.name, why.reason)
    return answer({"job_id": str(job_id)}, 202, {"Location": f"/api/v1/jobs/{job_id}"})


async def pause(call: Call) -> web.Response:
    """Skip a schedule's slots from now on."""
    why = await call.body(Why)
    async with call.state.acting() as conn:
        await pause_schedule(conn, call.actor, call.name, why.reason)
        return answer(await _find(conn, call.name))


async def resume(call: Call) -> web.Response:
    """Let a schedule fire again."""
    async with call.state.acting() as conn:
        await resume_schedule(conn, call.actor, call.name)
        return answer(await _find(conn, call.name))


def routes() -> list[Route]:
    """This resource's routes."""
    return [
        Route("GET", "/api/v1/schedules", "read", index, "Schedules with their next and last slot"),
        Route("GET", "/api/v1/schedules/{name}", "read", show, "One schedule"),
        Route("GET", "/api/v1/schedules/{name}/slots", "read", slots, "Its latest slots", ("limit",)),
        Route("POST", "/api/v1/schedules/{name}/trigger", "operate", trigger, "Run it now"),
        Route("POST", "/api/v1/schedules/{name}/pause", "operate", pause, "Skip its slots from now on"),
        Route("POST", "/api/v1/schedules/{name}/resume", "operate", resume, "Let it fire again"),
    ]
