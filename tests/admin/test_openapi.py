"""The OpenAPI document says what is served: all of it, in types, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from ingestd.admin.openapi import MACHINES, operation_id
from ingestd.admin.parameters import PATH, QUERY
from ingestd.admin.routes import Route
from ingestd.admin.server import build
from ingestd.admin.settings import AdminSettings
from tests.admin.conftest import Site


@pytest.fixture
def routes(site: Site) -> list[Route]:
    _, metrics, routes = build(site.state, AdminSettings(), 1)
    metrics.close()
    return [route for route in routes if route.path.startswith(MACHINES)]


async def document(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = await site.get("/api/v1/openapi.json")
    return found


async def test_every_route_for_machines_is_in_the_document(site: Site, routes: list[Route]) -> None:
    told = {(method.upper(), path) for path, methods in (await document(site))["paths"].items() for method in methods}
    assert told == {(route.method, route.path) for route in routes}


async def test_the_document_is_valid(site: Site) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(await document(site))


def test_every_operation_has_a_name_of_its_own(routes: list[Route]) -> None:
    names = [operation_id(route) for route in routes]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)


def test_every_parameter_has_its_meaning(routes: list[Route]) -> None:
    unknown = {name for route in routes for name in route.query if name not in QUERY and name not in route.words}
    assert unknown == set()
    used = {name for route in routes for name in route.query}
    assert set(QUERY) <= used, "words that no route understands"
    assert all(about.description.endswith(".") for about in (*QUERY.values(), *PATH.values()))


def test_every_action_says_what_it_reads_and_whether_it_may_be_repeated(routes: list[Route]) -> None:
    acting = [route for route in routes if route.method == "POST"]
    assert {route.path for route in acting if not route.once} == {"/api/v1/tokens", "/api/v1/tokens/{name}/revoke"}


async def test_every_reference_leads_somewhere(site: Site) -> None:
    whole = await document(site)

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(place := value.get("$ref"), str):
                found: Any = whole
                for part in place.removeprefix("#/").split("/"):
                    found = found[part]
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(whole)


async def test_the_page_tells_of_every_operation_without_a_script_from_elsewhere(site: Site) -> None:
    text = await site.get("/api")
    for path, methods in (await document(site))["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in text
    assert '<script src="http' not in text
    assert text.count("</section>") > 10
