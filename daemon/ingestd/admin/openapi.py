"""The OpenAPI 3.1 document, made from the registry of routes: what is served is what it says, and the other way round."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ingestd.admin.answers.base import Problem
from ingestd.admin.idempotency import HEADER, MAX_KEY, REPLAYED
from ingestd.admin.parameters import PATH, QUERY, Parameter
from ingestd.admin.problems import CONTENT_TYPE
from ingestd.admin.routes import Route

Mode = Literal["validation", "serialization"]
Places = Mapping[tuple[Any, Mode], Mapping[str, Any]]
MACHINES = ("/api/v1/", "/health", "/metrics")
_REFERENCE = "#/components/schemas/{model}"
_IN_PATH = re.compile(r"\{(\w+)\}")
_GROUP = re.compile(r"/(?:api/v1/)?([a-z0-9-]+)")
_ABOUT = """Administers ingestd: jobs, queues, nodes, schedules, imports, rollups.

Ids are strings, times RFC 3339 in UTC, durations milliseconds. Lists answer `items` and a `next_cursor` to hand back with the same
filter. Errors are problem documents (RFC 9457). A request with an `Idempotency-Key` may be sent again: it is done once.
"""
_REFUSALS: Mapping[int, str] = {
    400: "The request makes no sense as it is.",
    401: "It needs a token, or the one that came is not valid.",
    403: "It is not permitted.",
    404: "There is no such object.",
    409: "The object is in a state that forbids it; `current_state` says in which.",
    413: "The body is too large.",
    422: "A value does not fit what it is for; `errors` says which.",
    429: "It was asked for too often; `Retry-After` says when to try again.",
    503: "Postgres is not reachable at the moment.",
}
_IDEMPOTENCY_KEY = {
    "name": str(HEADER),
    "in": "header",
    "required": False,
    "description": "A text of your own, such as a UUID: the same request with it again, within a day, is answered alike, not done twice.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[ -~]+$"},
}


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The document about all routes that are meant for machines.

    Args:
        version: of the program that serves them.
    """
    shown = [route for route in routes if route.path.startswith(MACHINES)]
    schemas, places = _schemas(shown)
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, places)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ingestd", "version": version, "summary": _ABOUT.partition("\n")[0], "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(group_of(route) for route in shown)],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "A token made by `ingestd token create`."}},
            "responses": {str(status): _refusal(text) for status, text in _REFUSALS.items()},
        },
    }


def group_of(route: Route) -> str:
    """What a route is about: the first word of its path."""
    match = _GROUP.match(route.path)
    assert match is not None, route.path
    return match[1]


def operation_id(route: Route) -> str:
    """A name for the route that is a word in any language."""
    words = route.path.removeprefix("/api/v1").replace("-", "_").replace(".", "_")
    parts = [part.replace("{", "by_").rstrip("}") for part in words.split("/") if part]
    return "_".join((route.method.lower(), *parts))


def _schemas(routes: Iterable[Route]) -> tuple[dict[str, Any], Places]:
    wanted: dict[tuple[type[BaseModel], Mode], None] = {(Problem, "serialization"): None}
    for route in routes:
        if route.body is not None:
            wanted[route.body, "validation"] = None
        wanted |= {(model, "serialization"): None for model in route.answers.values() if model is not None}
    places, definitions = models_json_schema(list(wanted), by_alias=True, ref_template=_REFERENCE)
    return definitions["$defs"], places


def _operation(route: Route, places: Places) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": operation_id(route),
        "summary": route.summary,
        "tags": [group_of(route)],
        "parameters": list(_parameters(route)),
        "responses": _responses(route, places),
        "security": [{}] if route.permission == "public" else [{"token": []}, {}],
        "x-permission": route.permission,
    }
    if route.body is not None:
        needed = any(field.is_required() for field in route.body.model_fields.values())
        content = {"application/json": {"schema": dict(places[route.body, "validation"])}}
        operation["requestBody"] = {"required": needed, "content": content}
    return operation


def _parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in _IN_PATH.findall(route.path):
        yield _parameter(name, "path", route.words.get(name, PATH[name]), required=True)
    for name in route.query:
        yield _parameter(name, "query", route.words.get(name, QUERY[name]), required=False)
    if route.once:
        yield _IDEMPOTENCY_KEY


def _parameter(name: str, where: str, about: Parameter, *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "description": about.description, "schema": dict(about.schema)}


def _responses(route: Route, places: Places) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in route.answers.items():
        told: dict[str, Any] = {"description": (model.__doc__ or "").partition("\n")[0] if model else "Text."}
        if model is not None:
            told["content"] = {"application/json": {"schema": dict(places[model, "serialization"])}}
        elif route.media:
            told["content"] = {kind: {"schema": {"type": "string"}} for kind in route.media}
        if route.once:
            told["headers"] = {str(REPLAYED): {"description": "`true` where the request was done before.", "schema": {"type": "string"}}}
        responses[str(status)] = told
    for status in _refusals_of(route):
        responses.setdefault(str(status), {"$ref": f"#/components/responses/{status}"})
    return responses


def _refusals_of(route: Route) -> Iterator[int]:
    yield from (400, 403, 429)
    if route.permission != "public":
        yield from (401, 503)
    if "{" in route.path:
        yield 404
    if route.method != "GET":
        yield from (409, 413, 422)


def _refusal(description: str) -> dict[str, Any]:
    return {"description": description, "content": {CONTENT_TYPE: {"schema": {"$ref": _REFERENCE.format(model=Problem.__name__)}}}}
