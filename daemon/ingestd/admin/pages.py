"""The page: one, server-rendered, readable and usable without JavaScript."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import time
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import jinja2
from aiohttp import web
from markupsafe import Markup

from ingestd.admin import words
from ingestd.admin.job_pages import JobPages
from ingestd.admin.openapi import document
from ingestd.admin.overview import gather
from ingestd.admin.page_actions import action_routes
from ingestd.admin.problems import Problem
from ingestd.admin.reference import groups
from ingestd.admin.routes import Call, Route
from ingestd.admin.schedule_pages import SchedulePages
from ingestd.admin.state import AdminState
from ingestd.admin.view import VIEW_QUERY, View
from ingestd.errors import NotFound
from ingestd.health.checks import HealthRunner

TITLE = "ingestd"
SHARED_FOR_S = 0.9
REMEMBERED = 32
_TEXT = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Assets:
    """The files under `static/`, kept in memory and addressed by their content."""

    def __init__(self) -> None:
        root = resources.files("ingestd.admin") / "static"
        self._files = dict(_walk(root, ""))
        self._marks = {name: hashlib.sha256(body).hexdigest()[:12] for name, body in self._files.items()}

    def url(self, name: str) -> str:
        """The address of a file; it changes with the content."""
        return f"/static/{name}?v={self._marks[name]}"

    async def serve(self, call: Call) -> web.Response:
        """One file."""
        name = call.request.match_info["path"]
        body = self._files.get(name)
        if body is None:
            raise NotFound("there is no such file")
        kind = _TEXT.get(f".{name.rpartition('.')[2]}") or mimetypes.guess_type(name)[0] or "application/octet-stream"
        cache = "public, max-age=31536000, immutable" if call.query.get("v") == self._marks[name] else "no-cache"
        charset = "utf-8" if kind.startswith("text/") or kind.endswith("+xml") else None
        return web.Response(body=body, content_type=kind, charset=charset, headers={"Cache-Control": cache})


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _walk(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in ("css", "js", "svg"):
            found.append((f"{prefix}{entry.name}", entry.read_bytes()))
    return found


def make_templates(assets: Assets) -> jinja2.Environment:
    """The templates: everything is escaped, and a name nobody set is an error rather than a blank."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("ingestd.admin"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        words.number,
        words.short_number,
        words.duration,
        words.ago,
        words.iso,
        words.full,
        words.compact,
        words.tone,
        words.pretty,
    ):
        env.filters[function.__name__] = function
    env.filters["asset"] = lambda name: Markup(assets.url(name))  # noqa: S704 - a name of ours and a hash
    return env


class Pages:
    """The page and its parts.

    Args:
        state: what handlers may use.
        health: runs the checks shown.
        api: what the page about the HTTP interface tells of.
    """

    def __init__(self, state: AdminState, health: HealthRunner, api: Sequence[Route] = ()) -> None:
        self._api = api
        self._state = state
        self._health = health
        self._assets = Assets()
        self._templates = make_templates(self._assets)
        self._lock = asyncio.Lock()
        self._shared: dict[tuple[str, bool], tuple[float, dict[str, Any]]] = {}

    def routes(self) -> list[Route]:
        """The page, its live part, its actions and its files."""
        return [
            Route("GET", "/", "read", self.whole, "The page", VIEW_QUERY),
            Route("GET", "/live", "read", self.live, "The part of the page that changes", VIEW_QUERY),
            Route("GET", "/api", "read", self.reference, "The HTTP interface, to read"),
            Route("GET", "/static/{path:.+}", "public", self._assets.serve, "Styles, scripts, pictures", ("v",)),
            *action_routes(self._acted),
            *JobPages(self._state, self._html, self._shared.clear).routes(),
            *SchedulePages(self._state, self._html, self._shared.clear).routes(),
        ]

    async def whole(self, call: Call) -> web.Response:
        """The whole page."""
        return self._html("overview.html", await self._context(call), live=True, section="overview")

    async def live(self, call: Call) -> web.Response:
        """What changes, for the script to put in place."""
        return self._html("live.html", await self._context(call))

    async def reference(self, call: Call) -> web.Response:
        """What the HTTP interface is."""
        context: dict[str, Any] = {"groups": groups(document(self._api, self._state.node.version))}
        context |= {"node": self._state.node, "environment": self._state.environment}
        return self._html("api.html", context, title="HTTP interface", live=False, section="api")

    def problem(self, problem: Problem, correlation_id: str) -> web.Response:
        """A problem as a page, for people."""
        context = {"problem": problem, "correlation_id": correlation_id, "node": self._state.node}
        context["environment"] = self._state.environment
        return self._html("problem.html", context, problem.status, dict(problem.headers), title=problem.title, live=False)

    async def _acted(self, call: Call, message: str, section: str) -> web.Response:
        """After an action: the script gets the fresh part, a plain browser is sent back to where it was."""
        view = View.of(call.query)
        self._shared.clear()  # whoever acts sees what it did
        if "HX-Request" not in call.request.headers:
            return web.Response(status=303, headers={"Location": f"/{view.query()}#{section}"})
        response = await self.live(call)
        response.headers["X-Ingestd-Message"] = message.encode("ascii", "replace").decode()
        return response

    async def _context(self, call: Call) -> dict[str, Any]:
        """What the templates need. Tabs that look at the same view within a second share one reading."""
        view = View.of(call.query)
        key = (view.query(), call.actor.may("operate"))
        async with self._lock:
            known = self._shared.get(key)
            if known is not None and time.monotonic() - known[0] < SHARED_FOR_S:
                return known[1]
            report = await self._health.report()
            async with self._state.reading() as conn:
                context = await gather(conn, self._state, report, view, call.actor)
            if len(self._shared) >= REMEMBERED:
                self._shared.clear()
            self._shared[key] = (time.monotonic(), context)
            return context

    def _html(
        self, template: str, context: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None, **more: Any
    ) -> web.Response:
        text = self._templates.get_template(template).render({"title": TITLE, "section": ""} | context | more)
        return web.Response(status=status, text=text, content_type="text/html", charset="utf-8", headers=headers)
