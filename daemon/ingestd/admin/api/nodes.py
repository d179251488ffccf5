"""`/api/v1/nodes`."""

from __future__ import annotations

from aiohttp import web

from ingestd.admin.routes import Call, Route, answer
from ingestd.work.store import nodes


async def index(call: Call) -> web.Response:
    """Live nodes, and those that ended within a day; `self` tells which one answers."""
    async with call.state.reading() as conn:
        items = [dict(row) | {"self": row["id"] == call.state.node.id} for row in await nodes(conn)]
    return answer({"items": items, "next_cursor": None})


def routes() -> list[Route]:
    """This resource's routes."""
    return [Route("GET", "/api/v1/nodes", "read", index, "Nodes, the youngest first")]
