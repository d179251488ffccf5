"""Closed by default: no route without a permission, and no door beside the registry."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from ingestd.admin.routes import Call, Route, Routes
from ingestd.admin.server import build
from tests.admin.conftest import TOKEN, Open, Site


async def handler(_: Call) -> web.Response:
    return web.Response()


def test_a_route_cannot_be_made_without_a_permission() -> None:
    """Forgetting it is a TypeError, inventing one a ValueError."""
    with pytest.raises(TypeError):
        Route("GET", "/x", handler=handler, summary="X")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="not a permission"):
        Route("GET", "/x", "everybody", handler, "X")  # type: ignore[arg-type]


@pytest.mark.parametrize("permission", ["public", "read"])
def test_what_changes_something_needs_more_than_reading(permission: Any) -> None:
    """A POST cannot be entered as readable."""
    with pytest.raises(ValueError, match="needs more than"):
        Route("POST", "/x", permission, handler, "X")


def test_two_routes_for_the_same_door_are_refused() -> None:
    """The second would never be reached."""
    route = Route("GET", "/x", "read", handler, "X")
    with pytest.raises(ValueError, match="two routes"):
        Routes([route, route])


async def test_the_server_serves_its_registry_and_nothing_else(site: Site) -> None:
    """Every resource of aiohttp's router comes from a route with a permission."""
    from ingestd.admin.settings import AdminSettings

    app, metrics, routes = build(site.state, AdminSettings(), 1)
    metrics.close()
    served = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    entered = {(route.method, route.path.replace(":.+", "")) for route in routes}
    assert {door for door in served if door[0] != "HEAD"} == entered
    assert {path for method, path in served if method == "HEAD"} == {path for method, path in entered if method == "GET"}
    assert len(entered) > 40


async def test_nobody_acts_without_the_permission(guarded: Site) -> None:
    """Each route that changes something refuses a viewer, and asks for the token that would help."""
    from ingestd.admin.settings import AdminSettings

    _, metrics, routes = build(guarded.state, AdminSettings(), 1)
    metrics.close()
    acting = [route for route in routes if route.method != "GET"]
    assert acting
    for route in acting:
        async with guarded.request(route.method, route.path.replace("{id}", "1").replace("{name}", "x")) as response:
            assert response.status == 401, route.path
            assert response.headers["WWW-Authenticate"].startswith("Bearer")


async def test_whoever_has_no_token_may_still_look(guarded: Site) -> None:
    """Reading stays open on loopback."""
    assert (await guarded.get("/api/v1/jobs"))["items"] == []


async def test_the_token_opens_every_door(guarded: Site) -> None:
    """Its holder acts as admin, under the token's name."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    made = await guarded.post("/api/v1/jobs", 201, json={"kind": "sync_prices"}, headers=headers)
    (row,) = (await guarded.get("/api/v1/audit"))["items"]
    assert (row["actor"], row["role"], row["via"], row["object_id"]) == ("token:admin", "admin", "api", made["id"])


@pytest.mark.parametrize("given", ["Bearer wrong-token-of-some-length", "Basic dXNlcjpwYXNz", "Bearer", f"bearer {TOKEN}x", ""])
async def test_wrong_credentials_are_worse_than_none(guarded: Site, given: str) -> None:
    """Even where anybody may look: who says who they are must be right."""
    problem = await guarded.get("/api/v1/jobs", 401, headers={"Authorization": given})
    assert problem["type"] == "urn:ingestd:problem:unauthorized"


async def test_without_a_configured_token_none_is_right(site: Site) -> None:
    """An empty configured token matches no empty secret."""
    for given in ("Bearer ", "Bearer x"):
        await site.get("/api/v1/jobs", 401, headers={"Authorization": given})


async def test_probes_answer_everybody(open_site: Open) -> None:
    """Liveness, readiness and startup need no right at all and tell nothing but that."""
    site = await open_site(token=TOKEN, state={"ready": lambda: (False, "draining"), "started": lambda: False})
    assert await site.get("/health/live") == {"status": "alive"}
    assert await site.get("/health/ready", 503) == {"status": "not ready", "reason": "draining"}
    assert await site.get("/health/startup", 503) == {"status": "starting"}
