"""The command line and the HTTP API are compared: neither can do what the other cannot, but for what stands here with its reason."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, cast

import typer

from ingestd.admin.records import KEPT
from ingestd.cli.entry import COMMANDS, build

CLI = Path(__file__).parents[2] / "daemon" / "ingestd" / "cli"
METHODS = {"get": "GET", "pages": "GET", "post": "POST", "patch": "PATCH", "delete": "DELETE"}
# Routes that no command has for itself: `api METHOD PATH` asks them. What people want of them another command tells too.
BY_API = {
    ("GET", "/api/v1/queues/{name}"): "queues list",
    ("GET", "/api/v1/kinds/{name}"): "kinds list",
    ("GET", "/api/v1/workflows/{name}"): "workflows list",
    ("GET", "/api/v1/workflows/runs"): "workflows history",
    ("GET", "/api/v1/stats/summary"): "stats",
    ("GET", "/api/v1/events"): "api",
    ("GET", "/api/v1/openapi.json"): "api",
    ("GET", "/health/{name}"): "health",
    ("GET", "/health/live"): "health",
    ("GET", "/health/ready"): "health",
    ("GET", "/health/startup"): "health",
    ("GET", "/metrics"): "api",
}


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return self


def routes() -> dict[tuple[str, str], Any]:
    """The registry of the API."""
    from ingestd.admin.api import all_routes

    return {(route.method, route.path): route for route in all_routes(*cast("list[Any]", [_Anything()] * 2))}


def asked() -> list[tuple[str, str, bool]]:
    """Method and path of every request that the sources of commands make, and whether it carries an Idempotency-Key."""
    found = []
    for file in [*CLI.glob("*.py"), *(CLI / "sources").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in METHODS:
                continue
            path = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
            if not isinstance(path, str) or not path.startswith("/"):
                continue
            keyed = node.func.attr == "post" and not any(one.arg == "keyed" for one in node.keywords)
            kinds = KEPT if "{type}" in path else ("",)
            found += [(METHODS[node.func.attr], path.replace("{type}", what), keyed) for what in kinds]
    return found


def commands() -> set[str]:
    """Every command that can ask a daemon elsewhere, with its group."""
    found = set()
    for name, command in COMMANDS.items():
        if command.side != "either":
            continue
        whole = cast("Any", typer.main.get_command(build(name, {})))
        one = whole.commands[name]
        found |= {f"{name} {word}" for word in getattr(one, "commands", ())} or {name}
    return found


def test_every_request_of_a_command_is_one_of_the_apis_routes() -> None:
    known = routes()
    assert {(method, path) for method, path, _ in asked()} - set(known) == set()
    # a key where none is taken would be refused, and without one a broken connection could do it twice
    assert [(method, path) for method, path, keyed in asked() if method == "POST" and keyed != known[method, path].once] == []


def test_every_route_of_the_api_has_its_command() -> None:
    by_command = {(method, path) for method, path, _ in asked()}
    assert set(routes()) - by_command == set(BY_API)
    assert {words for words in BY_API.values() if words not in commands()} == set()


def test_every_command_of_a_group_has_both_sides() -> None:
    """What opens a session itself would quietly ask the database although --url was given."""
    own = {"cleanup.py", "imports.py", "base.py"}
    opens = {file.name for file in CLI.rglob("*.py") if "session(shell)" in file.read_text(encoding="utf-8")}
    assert opens == own
    for file in (CLI / "sources").glob("*.py"):
        sides = {node.name: node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)}
        if file.name == "base.py" or not sides:
            continue
        methods = [
            {part.name for part in sides[side].body if isinstance(part, ast.AsyncFunctionDef) and not part.name.startswith("_")}
            for side in ("Near", "Far")
        ]
        assert methods[0] == methods[1], file.name
