"""`/api/v1/queues` and `/api/v1/kinds`."""

from __future__ import annotations

from typing import Any

import asyncpg
from aiohttp import web

from ingestd.admin.answers.base import Page
from ingestd.admin.answers.jobs import Kind, KindWhole, Queue
from ingestd.admin.routes import Call, Route, answer
from ingestd.errors import NotFound
from ingestd.jobs.actions import pause_queue, resume_queue
from ingestd.jobs.store import queues as store
from ingestd.settings import did_you_mean


async def index(call: Call) -> web.Response:
    """All queues."""
    async with call.reading() as conn:
        return answer({"items": await store.overview(conn), "next_cursor": None})


async def show(call: Call) -> web.Response:
    """One queue."""
    async with call.reading() as conn:
        return answer(await _find(conn, call.name))


async def _find(conn: asyncpg.Connection, name: str) -> dict[str, Any]:
    found = next((queue for queue in await store.overview(conn) if queue["name"] == name), None)
    if found is None:
        raise NotFound(f'there is no queue "{name}"')
    return found


async def pause(call: Call) -> web.Response:
    """Stop claiming from a queue."""
    async with call.acting() as conn:
        await pause_queue(conn, call.actor, call.name)
        return answer(await _find(conn, call.name))


async def resume(call: Call) -> web.Response:
    """Claim from a queue again."""
    async with call.acting() as conn:
        await resume_queue(conn, call.actor, call.name)
        return answer(await _find(conn, call.name))


async def kinds(call: Call) -> web.Response:
    """All kinds of job that a node ever published; `here` tells whether this node runs it."""
    here = set(call.state.registry.kinds())
    async with call.reading() as conn:
        items = [dict(row) | {"here": row["name"] in here} for row in await store.kinds(conn)]
    return answer({"items": items, "next_cursor": None})


async def kind(call: Call) -> web.Response:
    """One kind of job, by its name or one that it had before."""
    async with call.reading() as conn:
        known = {row["name"]: dict(row) for row in await store.kinds(conn)}
        published = await store.published_kind(conn, call.name)
    if published is None:
        raise NotFound(f'there is no kind "{call.name[:200]}"{did_you_mean(call.name, known)}')
    name, arguments = published
    here = name in call.state.registry.kinds()
    return answer(known[name] | {"here": here, "arguments": arguments})


def routes() -> list[Route]:
    """These resources' routes."""
    return [
        Route("GET", "/api/v1/queues", "read", index, "Queues with their open jobs", answers={200: Page[Queue]}),
        Route("GET", "/api/v1/queues/{name}", "read", show, "One queue", answers={200: Queue}),
        Route("POST", "/api/v1/queues/{name}/pause", "operate", pause, "Stop claiming from a queue", once=True, answers={200: Queue}),
        Route("POST", "/api/v1/queues/{name}/resume", "operate", resume, "Claim from a queue again", once=True, answers={200: Queue}),
        Route("GET", "/api/v1/kinds", "read", kinds, "Kinds of job and their defaults", answers={200: Page[Kind]}),
        Route("GET", "/api/v1/kinds/{name}", "read", kind, "One kind of job, with the schema of its arguments", answers={200: KindWhole}),
    ]
