"""`/api/v1/openapi.json`."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from aiohttp import web

from ingestd.admin.openapi import document
from ingestd.admin.routes import Call, Route


def with_reference(routes: Sequence[Route]) -> list[Route]:
    """The routes, and the one that tells what they are."""
    kept: list[bytes] = []

    async def openapi(call: Call) -> web.Response:
        # The registry does not change while the server runs.
        if not kept:
            kept.append(orjson.dumps(document(whole, call.state.node.version)))
        return web.Response(body=kept[0], content_type="application/json")

    whole = [*routes, Route("GET", "/api/v1/openapi.json", "read", openapi, "This interface as an OpenAPI 3.1 document")]
    return whole
