"""Promise 11 against whoever means harm: whatever stands in a path, query, header or body is data, and is answered at once.

All is generated from the registry of routes: every parameter of every route is tried with what is in `hostile`, with all of it
where `INGESTD_LONG_TESTS=1`.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit
from zlib import crc32

import asyncpg
import orjson
import pytest

from ingestd.admin.routes import Route
from tests.admin.conftest import Open, Site, open_site
from tests.promises import hostile
from tests.promises.doors import PARAMETER, digest, doors, everything, filled
from tests.promises.storms import LONG
from tests.tokens import bearer, make_token

__all__ = ["open_site"]

# What server and client compute; and how long it takes where a machine is busy with something else.
SOON_S, BUSY_S = 0.1, 3.0
TRIES = 6
PASSWD = "root:x:0:0"
# What these understand may be hostile elsewhere, and means something here.
HARMLESS = {"wildcards", "blank", "empty", "negative", "other digits"}


class Attacker:
    """Somebody with a token, who asks and looks at the answer.

    Args:
        site: whom.
        headers: of each request.
    """

    def __init__(self, site: Site, headers: Mapping[str, str]) -> None:
        self.site = site
        self.headers = {"Accept": "application/json", **headers}

    async def tries(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and beginning of the answer, which is never an error of ours, nor late, nor more than was asked for."""
        sent = self.headers | ({"Content-Type": "application/json"} if body is not None else {}) | dict(headers or {})
        text, status, took, computed = "", 0, 0.0, 0.0
        for _ in range(TRIES):
            began, computed = time.perf_counter(), time.process_time()
            async with self.site.request(method, path, data=body and io.BytesIO(body), headers=sent) as answer:
                status = answer.status
                stream = answer.content_type == "text/event-stream"
                text = "" if stream else (await answer.content.read(65536)).decode(errors="replace")
                cookies, kind = answer.headers.get("Set-Cookie"), answer.content_type
            took, computed = time.perf_counter() - began, time.process_time() - computed
            if computed < SOON_S:
                break
        what = (method, path[:200], (body or b"")[:200], headers, status, text[:500])
        assert status < 500, what
        assert computed < SOON_S, (computed, *what)
        assert took < BUSY_S, (took, *what)
        assert cookies is None, what
        assert PASSWD not in text, what
        assert status < 400 or kind == "application/problem+json", what
        return status, text


@pytest.fixture
async def attacker(open_site: Open, conn: asyncpg.Connection) -> Attacker:
    """One with an operator's token, on a server with a job that nobody's filter means."""
    token = await make_token(conn, "operator")
    site = await everything(open_site)
    await conn.execute("alter table ingestd.job alter column id restart with 424242")
    await conn.execute('select ingestd.enqueue(\'sync_prices\', \'{"supplier": "acme"}\', \'{"tags": ["x"]}\')')
    return Attacker(site, bearer(token))


def encoded(text: str) -> str:
    """As a browser would send it; half a surrogate pair as the bytes that some clients make of it."""
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


async def test_what_a_query_holds_is_data(attacker: Attacker, conn: asyncpg.Connection) -> None:
    before = await digest(conn)
    found = 0
    for route in doors(attacker.site):
        for name in route.query if route.method == "GET" else ():
            for what, text in some(hostile.TEXTS, route.path + name).items():
                status, answer = await attacker.tries("GET", f"{filled(route.path)}?{name}={encoded(text)}")
                found += 1
                if status == 200 and what not in HARMLESS and route.path == "/api/v1/jobs" and name != "limit":
                    assert orjson.loads(answer)["items"] == [], (name, what)
    assert found > (3000 if LONG else 500)
    assert await digest(conn) == before


async def test_what_a_path_holds_is_a_name(attacker: Attacker, conn: asyncpg.Connection) -> None:
    before = await digest(conn)
    for route in doors(attacker.site):
        if not PARAMETER.search(route.path):
            continue
        for what, text in some(hostile.TEXTS, route.method + route.path).items():
            if text.strip() and what != "long":
                status, _ = await attacker.tries(route.method, filled(route.path, encoded(text)))
                assert status >= 400 or route.method == "GET", (route.method, route.path, what, status)
    assert await digest(conn) == before


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static/..%2f..%2fpages.py",
        "/static//etc/passwd",
        "/static/..\\..\\pages.py",
        "/static/.",
        "/static/%00",
        "/..;/static/app.css",
    ],
)
async def test_no_file_but_our_own_static_ones_is_served(attacker: Attacker, path: str) -> None:
    status = await raw_status(attacker.site, f"GET {path} HTTP/1.1\r\nHost: localhost:{attacker.site.server.port}\r\n\r\n".encode())
    assert status in (400, 403, 404)


async def test_bodies_that_are_not_what_they_should_be_are_refused_whole(attacker: Attacker, conn: asyncpg.Connection) -> None:
    before = await digest(conn)
    for route in acting(attacker.site):
        for what, body in some(hostile.bodies(), route.method + route.path).items():
            status, _ = await attacker.tries(route.method, filled(route.path), body=body)
            assert status >= 400, (route.method, route.path, what)
        status, _ = await attacker.tries(route.method, filled(route.path), body=b"<x/>", headers={"Content-Type": "text/xml"})
        assert status >= 400, (route.method, route.path)
    assert await digest(conn) == before


async def test_what_a_body_holds_is_data(attacker: Attacker, conn: asyncpg.Connection) -> None:
    """Whatever is taken is stored as it came, and found again as it came."""
    tried = 0
    for route in acting(attacker.site):
        for name in route.body.model_fields if route.body is not None else ():
            for value in some(hostile.values(), route.path + name).values():
                body = orjson.dumps({**GIVEN.get(route.path, {}), name: value}) if storable(value) else None
                if body is not None:
                    await attacker.tries(route.method, filled(route.path), body=body)
                    tried += 1
    assert tried > (1000 if LONG else 200)
    assert await conn.fetchval("select count(*) from ingestd.token") == 1
    assert await conn.fetchval("select to_regclass('ingestd.job') is not null")


async def test_what_headers_hold_is_data(attacker: Attacker, conn: asyncpg.Connection) -> None:
    names = (
        "Authorization", "X-Correlation-ID", "Idempotency-Key", "Last-Event-ID", "If-None-Match", "If-Modified-Since", "Range",
        "X-Forwarded-For", "Forwarded", "Accept", "Accept-Encoding", "Accept-Language", "User-Agent", "Referer", "Origin",
        "HX-Request", "Traceparent", "X-HTTP-Method-Override", "Content-Encoding", "Expect", "Cookie",
    )  # fmt: skip
    before = await digest(conn)
    for name in names:
        for text in some(hostile.TEXTS, name).values():
            if not any(ord(letter) < 32 or ord(letter) > 255 for letter in text):
                await attacker.tries("GET", "/api/v1/jobs", headers={name: text})
                await attacker.tries("POST", "/api/v1/jobs", body=b'{"kind": "nobody"}', headers={name: text})
    assert await digest(conn) == before


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /api/v1/jobs?tag=" + b"x" * hostile.MEGABYTE + b" HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET /" + b"../" * 300_000 + b" HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nX-Long: " + b"x" * hostile.MEGABYTE + b"\r\n\r\n",
        b"GET /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\n" + b"".join(b"X-%d: x\r\n" % n for n in range(50_000)) + b"\r\n",
        b"GET /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nX-Bad: a\0b\r\n\r\n",
        b"GET /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nX Bad: a\r\n\r\n",
        b"GET /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\n folded: a\r\n\r\n",
        b"GET /api/v1/jobs\x00 HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET http://evil.example/api/v1/jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        b"TRACE /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n{}",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999999999999\r\nContent-Type: application/json\r\n\r\n{}",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 10_000,
    ],
    ids=lambda request: repr(request[:60]),
)
async def test_what_is_no_request_is_refused_at_once(attacker: Attacker, conn: asyncpg.Connection, request_: bytes) -> None:
    before = await digest(conn)
    port = attacker.site.server.port
    took, computed, status = 0.0, 0.0, 0
    for _ in range(TRIES):
        began, computed = time.perf_counter(), time.process_time()
        status = await raw_status(attacker.site, request_.replace(b"{host}", b"localhost:%d" % port))
        took, computed = time.perf_counter() - began, time.process_time() - computed
        if computed < SOON_S:
            break
    assert 400 <= status < 500 or status == CLOSED
    assert computed < SOON_S
    assert took < BUSY_S
    assert await digest(conn) == before


CLOSED = 0
# What a body needs besides, so that the member that is tried is looked at.
GIVEN: dict[str, dict[str, Any]] = {
    "/api/v1/jobs": {"kind": "sync_prices"},
    "/api/v1/schedules": {"name": "odd", "command": "health", "every": "1h"},
}


def some(what: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All of it in a long run; else a quarter, another one at each place, so that each is tried in many."""
    shift = 0 if LONG else crc32(where.encode())
    return {name: value for number, (name, value) in enumerate(what.items()) if LONG or (number + shift) % 4 == 0}


def acting(site: Site) -> list[Route]:
    """The routes that change something."""
    return [route for route in doors(site) if route.method != "GET"]


def storable(value: object) -> bool:
    """Whether it can be written as JSON here at all."""
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


async def raw_status(site: Site, request: bytes) -> int:
    """Send bytes as they are; returns the status of what is answered, `CLOSED` if the connection is ended without a word."""
    reader, writer = await asyncio.open_connection(urlsplit(site.url).hostname, site.server.port)
    try:
        writer.write(request)
        # It may refuse before it has read all.
        head = asyncio.create_task(reader.readline())
        async with asyncio.timeout(20):
            try:
                line = await head
            except ConnectionError:
                return CLOSED
            if line:
                assert b"application/problem+json" in await reader.readuntil(b"\r\n\r\n"), line
        return int(line.split()[1]) if line.startswith(b"HTTP/") else CLOSED
    finally:
        writer.transport.abort()
