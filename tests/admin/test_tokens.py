"""API tokens at the door: who brings which gets in as what, and what is said to those who do not."""

from __future__ import annotations

import asyncpg
from multidict import CIMultiDict

from ingestd.access.scopes import AREAS, area_of
from ingestd.admin.server import build
from ingestd.admin.settings import AdminSettings
from tests.admin.conftest import Site
from tests.tokens import bearer, make_token, tokens_of_each_role

JOB = {"kind": "sync_prices"}


async def test_a_token_gives_its_role_at_once_and_no_more(site: Site, conn: asyncpg.Connection) -> None:
    of = await tokens_of_each_role(conn)
    for role, may_operate in (("viewer", 403), ("operator", 201), ("admin", 201)):
        await site.get("/api/v1/jobs", headers=bearer(of[role]))
        await site.post("/api/v1/jobs", may_operate, json=JOB, headers=bearer(of[role]))
    for ended, why in (("expired", '"test-expired" expired on'), ("revoked", '"test-revoked" was revoked on')):
        problem = await site.get("/api/v1/jobs", 401, headers=bearer(of[ended]))
        assert why in problem["detail"]


async def test_of_several_authorization_headers_none_counts(site: Site, conn: asyncpg.Connection) -> None:
    token = await make_token(conn, "operator")
    both = CIMultiDict([*bearer(token).items(), ("Authorization", "Bearer another")])
    assert "several Authorization headers" in (await site.get("/api/v1/jobs", 401, headers=both))["detail"]


async def test_once_a_token_is_defined_acting_takes_one(site: Site, conn: asyncpg.Connection) -> None:
    await site.post("/api/v1/jobs", 201, json=JOB)
    await make_token(conn, "viewer")
    await site.state.tokens.refresh()
    await site.post("/api/v1/jobs", 401, json=JOB)
    await site.get("/api/v1/jobs")


def test_every_area_can_be_a_scope_and_every_scope_is_an_area(site: Site) -> None:
    _, metrics, routes = build(site.state, AdminSettings(), 1)
    metrics.close()
    assert {area_of(route.path) for route in routes if route.permission != "public"} == set(AREAS)
