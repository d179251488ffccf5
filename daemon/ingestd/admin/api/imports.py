"""`/api/v1/imports`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ingestd.admin.answers.base import Page, Started
from ingestd.admin.answers.data import Import
from ingestd.admin.routes import Call, Route, answer
from ingestd.admin.shapes import masked, with_text_ids
from ingestd.errors import NotFound
from ingestd.imports.actions import no_such_import, trigger_import
from ingestd.imports.store.reads import list_imports


def shape(call: Call, row: Mapping[str, Any]) -> dict[str, Any]:
    """One import: what is declared, and how it stands."""
    shown = with_text_ids(row, ("last_load", "blocked_by"))
    return dict(masked(call.state.imports()[row["name"]].shown())) | shown


async def index(call: Call) -> web.Response:
    """Declared imports."""
    async with call.reading() as conn:
        found = await list_imports(conn, sorted(call.state.imports()))
    return answer({"items": [shape(call, row) for row in found], "next_cursor": None})


async def show(call: Call) -> web.Response:
    """One import."""
    require_import(call)
    async with call.reading() as conn:
        found = await list_imports(conn, [call.name])
    return answer(shape(call, found[0]))


async def trigger(call: Call) -> web.Response:
    """Look at an import's source now."""
    require_import(call)
    async with call.acting() as conn:
        job_id = await trigger_import(conn, call.actor, call.name)
    return answer({"job_id": str(job_id)}, 202, {"Location": f"/api/v1/jobs/{job_id}"})


def require_import(call: Call) -> None:
    """Refuse an import that is not declared.

    Raises:
        NotFound: it is not.
    """
    declared = call.state.imports()
    if call.name not in declared:
        error: NotFound = no_such_import(call.name, declared)
        raise error


def routes() -> list[Route]:
    """This resource's routes."""
    return [
        Route("GET", "/api/v1/imports", "read", index, "Declared imports and their last load", answers={200: Page[Import]}),
        Route("GET", "/api/v1/imports/{name}", "read", show, "One import", answers={200: Import}),
        Route("POST", "/api/v1/imports/{name}/trigger", "operate", trigger, "Look at the source now", once=True, answers={202: Started}),
    ]
