"""Around every request: correlation id, guard, problem documents, security headers, measurement."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ingestd.admin import connections, identity
from ingestd.admin.admission import MACHINE_PATHS, Admission
from ingestd.admin.connections import Connections
from ingestd.admin.denials import Denials
from ingestd.admin.guard import Hosts
from ingestd.admin.idempotency import answer_once
from ingestd.admin.problems import Problem, problem_of
from ingestd.admin.protocol import Explain
from ingestd.admin.routes import Call, Route
from ingestd.admin.state import AdminState
from ingestd.cause import REQUEST, correlation_from
from ingestd.errors import DatabaseUnreachable, UsageError
from ingestd.events import Notice
from ingestd.health.metrics import Metrics
from ingestd.settings import did_you_mean

# The request that this task answers; a handler runs in the task of its middleware.
CORRELATION: ContextVar[str] = ContextVar("correlation_id")
REQUEST_TIMEOUT_S = 30.0
# One that answers for as long as somebody listens takes its deadline away.
DEADLINE = web.RequestKey("deadline", asyncio.Timeout)
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not "no-referrer": with that, a browser without Sec-Fetch-Site sends "Origin: null" from our own forms
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Server": "ingestd",
}

ProblemPage = Callable[[Problem, str], web.Response]


@dataclass
class Surroundings:
    """What the middleware works with; `hosts` is known once the port is bound."""

    state: AdminState
    admission: Admission
    denials: Denials
    connections: Connections
    hosts: Hosts
    metrics: Metrics
    problem_page: ProblemPage


def outermost(around: Surroundings) -> Middleware:
    """The one middleware: nothing gets past it without its headers, and no error without its document."""

    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        correlation_id = correlation_of(request)
        CORRELATION.set(correlation_id)
        REQUEST.set(correlation_id)
        began = time.perf_counter()
        around.connections.began(request.transport)
        try:
            around.hosts.check_host(request)
            around.hosts.check_site(request)
            async with asyncio.timeout(REQUEST_TIMEOUT_S) as deadline:
                request[DEADLINE] = deadline
                response = await handler(request)
        except asyncio.CancelledError:
            raise
        except web.HTTPException as error:
            response = _explain(around, request, error, correlation_id)
        except Exception as error:  # noqa: BLE001 - every error becomes a problem document
            around.denials.note(request, error, correlation_id)
            response = _explain(around, request, error, correlation_id)
        finally:
            around.connections.ended(request.transport)
        _dress(response, correlation_id)
        resource = request.match_info.route.resource
        around.metrics.observe_request(
            request.method, resource.canonical if resource else "unmatched", response.status, time.perf_counter() - began
        )
        return response

    return handle


def serve(around: Surroundings, route: Route) -> Handler:
    """Wrap a route's handler: who asks, may they, and do we understand all of the query."""

    async def handle(request: web.Request) -> web.StreamResponse:
        actor = await around.admission.admit(request, route, CORRELATION.get())
        around.connections.held_by(request.transport, connections.CONFIGURED if actor.name == identity.CONFIGURED else actor.token_id)
        if route.streams:
            request[DEADLINE].reschedule(None)
        return await answer_once(Call(request, around.state, actor, _query(request, route)), route)

    return handle


def outside(around: Surroundings) -> Explain:
    """What answers where no request of ours has begun, or where what surrounds it broke."""

    def explain(problem: Problem, correlation_id: str, error: BaseException | None) -> web.Response:
        if error is not None:
            _tell(around, error, {"correlation_id": correlation_id})
        response = problem.response(correlation_id)
        _dress(response, correlation_id)
        return response

    return explain


def _dress(response: web.StreamResponse, correlation_id: str) -> None:
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers["X-Correlation-ID"] = correlation_id
    response.headers.setdefault("Cache-Control", "no-store")


def _query(request: web.Request, route: Route) -> dict[str, str]:
    query: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in route.query:
            known = did_you_mean(name, route.query) or (f"; known: {', '.join(route.query)}" if route.query else "")
            raise UsageError(f'unknown query parameter "{name[:100]}"{known}')
        if name in query:
            raise UsageError(f'query parameter "{name}" is given twice')
        if "\0" in value:
            raise UsageError(f'query parameter "{name}" holds a NUL character')
        query[name] = value
    return query


def correlation_of(request: web.Request) -> str:
    """The caller's correlation id where it is well formed, else a new one."""
    return correlation_from(request.headers.get("X-Correlation-ID"))


def _explain(around: Surroundings, request: web.Request, error: web.HTTPException | Exception, correlation_id: str) -> web.StreamResponse:
    if isinstance(error, web.HTTPException) and error.status < 400:
        return error
    problem = problem_of(error)
    if problem.status >= 500 and not isinstance(error, DatabaseUnreachable) and problem.slug != DatabaseUnreachable.slug:
        _tell(around, error, {"correlation_id": correlation_id, "method": request.method, "path": request.path})
    if _wants_page(request):
        try:
            return around.problem_page(problem, correlation_id)
        except Exception as broken:  # noqa: BLE001 - a page that cannot be drawn must not hide the problem
            around.state.bus.emit(Notice(f"the problem page failed: {type(broken).__name__}: {broken}", "error"))
    return problem.response(correlation_id)


def _tell(around: Surroundings, error: BaseException, details: dict[str, str]) -> None:
    told = details | {"traceback": "".join(traceback.format_exception(error))}
    around.state.bus.emit(Notice(f"request failed: {type(error).__name__}: {error}", "error", told))


def _wants_page(request: web.Request) -> bool:
    if request.path.startswith(MACHINE_PATHS) or "HX-Request" in request.headers:
        return False
    return "text/html" in request.headers.get("Accept", "")
