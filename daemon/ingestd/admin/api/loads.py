"""`/api/v1/loads`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ingestd.admin.answers.base import Page
from ingestd.admin.answers.data import Load, LoadSettled, Reject
from ingestd.admin.routes import MAX_ID, Call, Route, answer
from ingestd.admin.shapes import masked, read_word, with_text_ids
from ingestd.errors import NotFound
from ingestd.imports.actions import retry_load, skip_load
from ingestd.imports.store.reads import list_loads, list_rejects, load_detail

STATUSES = ("pending", "succeeded", "partial", "failed", "skipped")
_IDS = ("id", "job_id", "duplicate_of", "blocked_by", "job_parent")


def shape(row: Mapping[str, Any]) -> dict[str, Any]:
    """One load as the API shows it."""
    shown = with_text_ids(row, _IDS)
    for name in ("metadata", "error"):
        if name in shown:
            shown[name] = masked(shown[name])
    return shown


async def index(call: Call) -> web.Response:
    """Loads, newest first."""
    limit, cursors = call.limit(), await call.cursors()
    status = read_word(call.query, "status", STATUSES)
    name, before = call.query.get("import"), cursors.read_id()
    async with call.reading() as conn:
        found = await list_loads(conn, import_name=name, status=status, limit=limit + 1, before_id=before)
    return answer(cursors.page(found, limit, shape))


async def show(call: Call) -> web.Response:
    """One load, with where its file came from and its rejects by kind."""
    async with call.reading() as conn:
        found = await load_detail(conn, call.id)
    if found is None:
        raise NotFound(f"there is no load {call.id}")
    return answer(shape(found))


async def rejects(call: Call) -> web.Response:
    """The rejected records of a load, in file order."""
    limit, cursors = call.limit(100), await call.cursors()
    after = cursors.read_id() or 0
    async with call.reading() as conn:
        if await load_detail(conn, call.id) is None:
            raise NotFound(f"there is no load {call.id}")
        found = await list_rejects(conn, call.id, limit, min(after, MAX_ID))
    # A page never ends inside a record, so it may be longer than asked; a shorter one is the last.
    more = len(found) >= limit
    cursor = cursors.write(found[-1]["record"]) if more else None
    return answer({"items": found, "next_cursor": cursor})


async def retry(call: Call) -> web.Response:
    """Run a failed load again."""
    async with call.acting() as conn:
        job_id = await retry_load(conn, call.actor, call.id)
        found = await load_detail(conn, call.id)
    return answer(shape(found or {"id": call.id, "job_id": job_id}))


async def skip(call: Call) -> web.Response:
    """Give up on a load that failed or waits."""
    async with call.acting() as conn:
        await skip_load(conn, call.actor, call.id)
        found = await load_detail(conn, call.id)
    return answer(shape(found or {"id": call.id}))


def routes() -> list[Route]:
    """This resource's routes."""
    paging = ("limit", "cursor")
    return [
        Route("GET", "/api/v1/loads", "read", index, "Loads, newest first", ("import", "status", *paging), answers={200: Page[Load]}),
        Route("GET", "/api/v1/loads/{id}", "read", show, "One load", answers={200: Load}),
        Route("GET", "/api/v1/loads/{id}/rejects", "read", rejects, "Its rejected records", paging, answers={200: Page[Reject]}),
        Route("POST", "/api/v1/loads/{id}/retry", "operate", retry, "Run a failed load again", once=True, answers={200: LoadSettled}),
        Route("POST", "/api/v1/loads/{id}/skip", "operate", skip, "Give up on a load", once=True, answers={200: LoadSettled}),
    ]
