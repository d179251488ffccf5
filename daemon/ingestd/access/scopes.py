"""The areas that a token can be limited to: the first word of an API path, and what stands beside the API."""

from __future__ import annotations

from collections.abc import Iterable

from ingestd.access.roles import Role
from ingestd.errors import InvalidInput
from ingestd.settings import did_you_mean

AREAS = (
    "api", "audit", "bulk", "downtimes", "events", "health", "imports", "jobs", "kinds", "loads", "metrics", "nodes", "pages", "queues",
    "rollups", "schedules", "stats", "tokens", "workflows",
)  # fmt: skip


def area_of(path: str) -> str:
    """The area that a path belongs to, such as `jobs` for `/api/v1/jobs/{id}`."""
    parts = path.split("/")
    if path.startswith("/api/v1/"):
        return "api" if "." in parts[3] else parts[3]
    return parts[1] if parts[1] in ("api", "health", "metrics") else "pages"


def parse_scopes(given: Iterable[str]) -> tuple[str, ...]:
    """Check the scopes of a token: an area such as `jobs`, or `jobs:read` for looking only.

    Returns:
        Them, sorted, each once.

    Raises:
        InvalidInput: there is no such area.
    """
    scopes = sorted({scope.strip() for scope in given})
    for scope in scopes:
        if not scope:  # to pass over it would make a token without limits where one was meant
            raise InvalidInput(f"a scope is empty; areas: {', '.join(AREAS)}", pointer="/scopes")
        area, colon, how = scope.partition(":")
        if area not in AREAS:
            known = did_you_mean(area, AREAS) or f"; areas: {', '.join(AREAS)}"
            raise InvalidInput(f'"{scope[:100]}" is not a scope: there is no area "{area[:100]}"{known}', pointer="/scopes")
        if colon and how != "read":
            raise InvalidInput(f'"{scope[:100]}" is not a scope: write "{area}", or "{area}:read" for looking only', pointer="/scopes")
    return tuple(scopes)


def within(wanted: Iterable[str], own: frozenset[str]) -> bool:
    """Whether scopes reach no further than others do."""
    scopes = set(wanted)
    if not own:
        return True
    return bool(scopes) and all(scope in own or scope.removesuffix(":read") in own for scope in scopes)


def rank(role: Role) -> int:
    """How much a role may, for comparing."""
    return ("anonymous", "viewer", "operator", "admin").index(role)
