"""`/api/v1/nodes`."""

from __future__ import annotations

from aiohttp import web

from ingestd.admin.answers.base import Anything, Page
from ingestd.admin.answers.jobs import Node
from ingestd.admin.routes import Call, Route, answer
from ingestd.work.actions import drain_node
from ingestd.work.store import nodes


async def index(call: Call) -> web.Response:
    """Live nodes, and those that ended within a day; `self` tells which one answers."""
    async with call.reading() as conn:
        items = [dict(row) | {"self": row["id"] == call.state.node.id} for row in await nodes(conn)]
    return answer({"items": items, "next_cursor": None})


async def drain(call: Call) -> web.Response:
    """Ask a node to drain and end, as by SIGTERM."""
    async with call.acting() as conn:
        return answer(await drain_node(conn, call.actor, call.name), status=202)


def routes() -> list[Route]:
    """This resource's routes."""
    return [
        Route("GET", "/api/v1/nodes", "read", index, "Nodes with their slots, the youngest first", answers={200: Page[Node]}),
        Route(
            "POST",
            "/api/v1/nodes/{name}/drain",
            "administer",
            drain,
            "Let a node finish its jobs and end",
            once=True,
            answers={202: Anything},
        ),
    ]
