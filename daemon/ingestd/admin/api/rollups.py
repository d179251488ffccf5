"""`/api/v1/rollups`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiohttp import web

from ingestd.admin.answers.base import Page, Started
from ingestd.admin.answers.data import Rollup
from ingestd.admin.routes import Call, Route, answer
from ingestd.rollups.actions import refresh_now
from ingestd.rollups.reads import RollupStatus, list_rollups, rollup_status
from ingestd.settings import format_duration


def shape(rollup: RollupStatus) -> dict[str, Any]:
    """One rollup as the API shows it."""
    return asdict(rollup) | {
        "max_staleness": format_duration(rollup.max_staleness),
        "staleness_seconds": round(rollup.staleness_seconds, 3),
        "since_seconds": round(rollup.since_seconds, 3),
    }


async def index(call: Call) -> web.Response:
    """All rollups."""
    async with call.reading() as conn:
        items = [shape(rollup) for rollup in await list_rollups(conn)]
    return answer({"items": items, "next_cursor": None})


async def show(call: Call) -> web.Response:
    """One rollup."""
    async with call.reading() as conn:
        return answer(shape(await rollup_status(conn, call.name)))


async def refresh(call: Call) -> web.Response:
    """Refresh a rollup now."""
    async with call.acting() as conn:
        job_id = await refresh_now(conn, call.actor, call.name)
    return answer({"job_id": str(job_id)}, 202, {"Location": f"/api/v1/jobs/{job_id}"})


def routes() -> list[Route]:
    """This resource's routes."""
    return [
        Route("GET", "/api/v1/rollups", "read", index, "Rollups and how fresh they are", answers={200: Page[Rollup]}),
        Route("GET", "/api/v1/rollups/{name}", "read", show, "One rollup", answers={200: Rollup}),
        Route("POST", "/api/v1/rollups/{name}/refresh", "operate", refresh, "Refresh it now", once=True, answers={202: Started}),
    ]
