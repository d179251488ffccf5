"""The registry of routes: what is not entered here, with its permission, is not served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar, get_args

import asyncpg
import orjson
from aiohttp import web
from aiohttp.web import RequestPayloadError
from pydantic import BaseModel

from ingestd.access.roles import Actor, Permission
from ingestd.admin.answers.base import Anything
from ingestd.admin.bodies import check_unambiguous
from ingestd.admin.cursors import Cursors
from ingestd.admin.parameters import MAX_LIMIT, Parameter
from ingestd.admin.shapes import check_storable, parse
from ingestd.admin.state import AdminState
from ingestd.errors import InvalidInput, NotFound, UsageError

METHODS = ("GET", "POST", "PATCH", "DELETE")
MAX_ID = 2**63 - 1
BODY_TIMEOUT_S = 20.0  # less than an answer may take

M = TypeVar("M", bound=BaseModel)


class Call:
    """One request to one route, as its handler sees it.

    Args:
        request: aiohttp's view of it.
        state: what the server was given.
        actor: who asks; the route's permission has been checked.
        query: query parameters, all of them declared by the route.
    """

    def __init__(self, request: web.Request, state: AdminState, actor: Actor, query: Mapping[str, str]) -> None:
        self.request = request
        self.state = state
        self.actor = actor
        self.query = query
        self._conn: asyncpg.Connection | None = None

    @asynccontextmanager
    async def acting(self) -> AsyncIterator[asyncpg.Connection]:
        """The transaction of what the request does and of its audit row; within another one of the same request, that one."""
        if self._conn is not None:
            yield self._conn
            return
        async with self.state.acting() as conn:
            self._conn = conn
            try:
                yield conn
            finally:
                self._conn = None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[asyncpg.Connection]:
        """One snapshot to read from; within a transaction of the same request, that one: it must not wait for a second connection."""
        if self._conn is not None:
            yield self._conn
            return
        async with self.state.reading() as conn:
            yield conn

    async def cursors(self, filters: Mapping[str, str] | None = None) -> Cursors:
        """The cursors of the list at this path.

        Args:
            filters: what they are bound to besides, if not to the query.
        """
        return Cursors(await self.state.cursor_key(), self.request.path, self.query if filters is None else filters)

    @property
    def name(self) -> str:
        """The object's name in the path.

        Raises:
            NotFound: it is not a text that Postgres could hold, so nothing has that name.
        """
        text = self.request.match_info["name"]
        if "\0" in text:
            raise NotFound("no name holds a NUL character")
        return text

    @property
    def id(self) -> int:
        """The object's number in the path.

        Raises:
            NotFound: it is not a number that an object can have.
        """
        text = self.request.match_info["id"]
        if not _is_id(text):
            raise NotFound(f'"{text}" is not an id')
        return int(text)

    @property
    def before(self) -> int | None:
        """The id that a list is to begin behind; None: nobody said.

        Raises:
            UsageError: it is not one.
        """
        text = self.query.get("before")
        if text is not None and not _is_id(text):
            raise UsageError(f'"before": "{text[:100]}" is not an id')
        return None if text is None else int(text)

    def limit(self, default: int = 50) -> int:
        """The page size asked for."""
        return self.number("limit", default, 1, MAX_LIMIT)

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number among the query parameters.

        Raises:
            UsageError: it is not one, or out of range.
        """
        text = self.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()) or len(text) > 9 or not low <= int(text) <= high:
            raise UsageError(f'"{name}" must be a number from {low} to {high}')
        return int(text)

    async def body(self, model: type[M]) -> M:
        """The JSON object in the request's body; none at all is an empty one.

        Args:
            model: what it must fit.

        Raises:
            UsageError: it is not JSON.
            InvalidInput: it does not fit, or can be read in two ways.
        """
        raw = await self.raw()
        if raw.strip() and self.request.content_type != "application/json":
            raise UsageError("send the body as JSON, with Content-Type: application/json")
        try:
            data = orjson.loads(raw) if raw.strip() else {}
        except ValueError as error:
            raise UsageError(f"the body is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise InvalidInput("the body must be a JSON object", pointer="/")
        check_storable(data)
        if data:
            check_unambiguous(raw)
        return parse(model, data)

    async def raw(self) -> bytes:
        """The request's body as it came.

        Raises:
            UsageError: it cannot be read.
            web.HTTPException: it is too large, too slow, or packed.
        """
        async with self._arriving():
            try:
                return await self.request.read()
            except RequestPayloadError as error:
                raise UsageError(f"the body cannot be read: {error}") from None

    @asynccontextmanager
    async def _arriving(self) -> AsyncIterator[None]:
        encoding, length, most = self.request.headers.get("Content-Encoding", ""), self.request.content_length, self.request.client_max_size
        if encoding.strip().lower() not in ("", "identity"):
            raise web.HTTPUnsupportedMediaType(text="send the body as it is, without a Content-Encoding")
        if length is not None and length > most:
            raise web.HTTPRequestEntityTooLarge(most, length)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                yield
        except TimeoutError:
            raise web.HTTPRequestTimeout from None

    async def form(self) -> dict[str, str]:
        """The fields of a plain form; none may hold what Postgres cannot.

        Raises:
            UsageError: it is not one.
        """
        if self.request.content_type != "application/x-www-form-urlencoded":
            raise UsageError("send a form, or use the API")
        try:
            async with self._arriving():
                fields = {name: str(value) for name, value in (await self.request.post()).items()}
        except (ValueError, LookupError, RequestPayloadError) as error:
            raise UsageError(f"the form cannot be read: {error}") from None
        check_storable(fields)
        return fields


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_ID


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path.

    Args:
        method: HTTP method.
        path: aiohttp pattern, such as `/api/v1/jobs/{id}`.
        permission: what the actor's role must carry; there is no default on purpose.
        handler: answers it.
        summary: one line for the reference.
        query: query parameters it understands; any other is refused.
        body: what it reads as JSON; None: nothing.
        answers: the models of what it answers, by status; None: text.
        words: parameters that mean something else here than in `parameters`.
        media: content types of what is not JSON.
        once: whether it heeds an `Idempotency-Key`; an answer that holds a secret must not, for it would be kept.
        streams: whether it answers for as long as the caller listens.
    """

    method: str
    path: str
    permission: Permission
    handler: Handler
    summary: str
    query: tuple[str, ...] = field(default=())
    body: type[BaseModel] | None = None
    answers: Mapping[int, type[BaseModel] | None] = field(default_factory=lambda: {200: Anything})
    words: Mapping[str, Parameter] = field(default_factory=dict)
    media: tuple[str, ...] = ()
    once: bool = False
    streams: bool = False

    def __post_init__(self) -> None:
        if self.permission not in get_args(Permission):
            raise ValueError(f"{self.method} {self.path}: {self.permission!r} is not a permission")
        if self.method not in METHODS:
            raise ValueError(f"{self.method} {self.path}: not a method we serve")
        if self.method != "GET" and self.permission in ("public", "read"):
            raise ValueError(f"{self.method} {self.path}: what changes something needs more than {self.permission!r}")
        if not self.summary:
            raise ValueError(f"{self.method} {self.path}: say in one line what it does")


class Routes:
    """All routes of the server."""

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self._routes: dict[tuple[str, str], Route] = {}
        for route in routes:
            self.add(route)

    def add(self, route: Route) -> None:
        """Enter one route.

        Raises:
            ValueError: its method and path are taken.
        """
        key = (route.method, route.path)
        if key in self._routes:
            raise ValueError(f"two routes for {route.method} {route.path}")
        self._routes[key] = route

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes.values())

    def __len__(self) -> int:
        return len(self._routes)


def answer(data: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer; moments become RFC 3339, UUIDs strings."""
    body = orjson.dumps(data, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC | orjson.OPT_NON_STR_KEYS)
    return web.Response(status=status, body=body, content_type="application/json", headers=dict(headers or {}))
