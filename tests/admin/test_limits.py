"""How often one may ask and guess, what is written down of refusals, and that held connections keep nobody out."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from ingestd.access import tokens
from ingestd.admin import denials
from ingestd.admin.connections import Connections
from ingestd.admin.limits import Buckets, network
from ingestd.admin.server import AdminServer
from ingestd.admin.settings import AdminSettings
from ingestd.events import AccessDenied
from ingestd.jobs.settings import parse_rate
from tests.admin.conftest import TOKEN, Open, Site
from tests.support import CROWDED, eventually
from tests.tokens import bearer, make_token

JOB = {"kind": "sync_prices"}
DENIED = """
select actor, address, action, object_id, detail->>'status' as status, (detail->>'times')::int as times
from ingestd.audit where outcome = 'denied' order by id"""


def test_a_bucket_takes_so_many_at_once_and_then_one_at_a_time() -> None:
    buckets = Buckets(parse_rate("10/1m"))
    taken = 0
    while buckets.wait_s("a", 100.0) == 0:
        buckets.add("a", 100.0)
        taken += 1
    assert taken == 10
    assert buckets.wait_s("a", 100.0) == pytest.approx(6.0)
    assert buckets.wait_s("a", 106.1) == 0
    assert buckets.wait_s("b", 100.0) == 0
    assert Buckets(parse_rate("")).wait_s("a", 0) == 0


def test_however_many_knock_they_do_not_fill_the_memory() -> None:
    buckets = Buckets(parse_rate("10/1m"))
    for number in range(12_000):
        buckets.add(str(number), 1.0)
    assert len(buckets._empty_at) == 10_000


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("::1", "::1"),
        ("unix", "unix"),
    ],
)
def test_whoever_has_one_address_of_ipv6_has_all_beside_it(address: str, counted_as: str) -> None:
    assert network(address) == counted_as


async def test_each_token_has_its_own_rate_and_starting_work_a_stricter_one(open_site: Open, conn: asyncpg.Connection) -> None:
    site = await open_site(rate="20/1h", trigger_rate="2/1h")
    one, other = await make_token(conn, "operator", "one"), await make_token(conn, "operator", "other")
    path = "/api/v1/imports/readings/trigger"
    said = [(await _post(site, path, one))[0] for _ in range(3)]
    assert 429 not in said[:2]
    assert said[2] == 429
    await site.get("/api/v1/jobs", headers=bearer(one))
    assert (await _post(site, path, other))[0] != 429
    for _ in range(30):
        status, headers = await _get(site, one)
        if status == 429:
            break
    assert status == 429
    assert 1 <= int(headers["Retry-After"]) <= 3600
    assert (await _get(site, other))[0] == 200
    await site.get("/health/live", headers=bearer(one))


async def _post(site: Site, path: str, token: str) -> tuple[int, dict[str, str]]:
    async with site.client.post(site.url + path, headers=bearer(token)) as response:
        return response.status, dict(response.headers)


async def _get(site: Site, token: str) -> tuple[int, dict[str, str]]:
    async with site.client.get(site.url + "/api/v1/queues", headers=bearer(token)) as response:
        return response.status, dict(response.headers)


async def test_who_guesses_has_to_wait_and_who_holds_a_token_beside_them_does_not(guarded: Site, conn: asyncpg.Connection) -> None:
    held = await make_token(conn, "viewer")
    said = [(await _get(guarded, f"a-guess-of-some-length-{number}"))[0] for number in range(12)]
    assert said == [401] * 10 + [429] * 2
    assert (await _get(guarded, TOKEN))[0] == 200, "nobody guesses so long a token, so nobody can lock out its holder"
    assert (await _get(guarded, held))[0] == 200
    await guarded.get("/health/live", headers=bearer("another guess"))


async def test_a_short_token_of_the_configuration_cannot_be_guessed_fast(open_site: Open) -> None:
    site = await open_site(token=TOKEN[:20])
    assert [(await _get(site, TOKEN[:number]))[0] for number in range(9, 20)] == [401] * 10 + [429]
    assert (await _get(site, TOKEN[:20]))[0] == 429, "the next guess might be right"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{whole}", "nobody made it here"),
        ("{cut}", "it has not the form"),
        ("{turned}", "its checksum does not fit"),
        ("something else entirely", "the token is not valid"),
        ("\udce9\udcff" * 10, "the token is not valid"),
    ],
)
async def test_each_mistake_with_a_token_has_its_own_line(site: Site, text: str, said: str) -> None:
    whole = tokens.make("admin").text
    turned = whole[:20] + ("x" if whole[20] != "x" else "y") + whole[21:]
    problem = await site.get("/api/v1/jobs", 401, headers=bearer(text.format(whole=whole, cut=whole[:-1], turned=turned)))
    assert said in problem["detail"]
    assert "hint" in problem


async def test_refusals_are_written_down_the_first_at_once_and_the_rest_together(
    guarded: Site, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = await make_token(conn, "viewer", "nosy")
    for _ in range(5):
        await guarded.post("/api/v1/jobs", 403, json=JOB, headers=bearer(viewer))
    await guarded.post(f"/api/v1/tokens/{viewer}/revoke", 403, headers=bearer(viewer))
    await guarded.get("/api/v1/jobs", 401, headers=bearer("wrong"))
    await guarded.get("/api/v1/jobs", 403, headers={"Host": "evil.example"})
    await guarded.server.write_denials()
    rows = [tuple(row) for row in await conn.fetch(DENIED)]
    assert rows == [
        ("token:nosy", "127.0.0.1", "POST /api/v1/jobs", "/api/v1/jobs", "403", 5),
        ("token:nosy", "127.0.0.1", "POST /api/v1/tokens/{name}/revoke", "/api/v1/tokens/••••••/revoke", "403", None),
        ("anonymous", "127.0.0.1", "GET /api/v1/jobs", "/api/v1/jobs", "401", None),
        ("anonymous", "127.0.0.1", "GET /api/v1/jobs", "/api/v1/jobs", "403", None),
    ]
    assert [event.actor for event in guarded.events if isinstance(event, AccessDenied)] == [
        "token:nosy",
        "token:nosy",
        "anonymous",
        "anonymous",
    ]
    assert viewer not in str(await conn.fetch("select a::text from ingestd.audit a"))
    await guarded.post("/api/v1/jobs", 403, json=JOB, headers=bearer(viewer))
    await guarded.server.write_denials()
    assert len(await conn.fetch(DENIED)) == 4, "the minute is not over"
    monkeypatch.setattr(denials, "TOGETHER_S", 0.0)
    await guarded.server.write_denials()
    assert (await conn.fetch(DENIED))[-1]["times"] == 1
    found = await guarded.get("/api/v1/audit?outcome=denied&actor=token:nosy", headers=bearer(TOKEN))
    assert {item["outcome"] for item in found["items"]} == {"denied"}


async def test_scopes_end_where_they_end(site: Site, conn: asyncpg.Connection) -> None:
    scoped = await make_token(conn, "admin", "scoped", scopes=["jobs:read", "queues", "tokens"])
    await site.get("/api/v1/jobs", headers=bearer(scoped))
    problem = await site.post("/api/v1/jobs", 403, json=JOB, headers=bearer(scoped))
    assert problem["detail"] == "this token is limited to jobs:read, queues, tokens; this needs the scope jobs"
    await site.post("/api/v1/queues/default/pause", 200, headers=bearer(scoped))
    for path in ("/", "/health", "/metrics", "/api/v1/schedules"):
        await site.get(path, 403, headers=bearer(scoped))
    wider = {"name": "wider", "role": "admin"}
    assert "may do more than itself" in (await site.post("/api/v1/tokens", 403, json=wider, headers=bearer(scoped)))["detail"]
    made = await site.post("/api/v1/tokens", 201, json=wider | {"scopes": ["jobs:read"]}, headers=bearer(scoped))
    await site.get("/api/v1/jobs", headers=bearer(made["token"]))
    assert made["created_by"] == "token:scoped"


async def test_the_api_makes_shows_and_ends_tokens(guarded: Site) -> None:
    admin = bearer(TOKEN)
    made = await guarded.post("/api/v1/tokens", 201, json={"name": "ci", "role": "operator", "expires": "1h"}, headers=admin)
    assert made["expires_at"]
    listed = await guarded.get("/api/v1/tokens", headers=admin)
    assert made["token"] not in str(listed)
    assert [item["begins"] for item in listed["items"]] == [made["begins"]]
    await guarded.get("/api/v1/jobs", headers=bearer(made["token"]))
    await guarded.get("/api/v1/tokens", 403, headers=bearer(made["token"]))
    await guarded.post("/api/v1/tokens/ci/revoke", headers=admin)
    await guarded.get("/api/v1/jobs", 401, headers=bearer(made["token"]))
    assert (await guarded.get("/api/v1/tokens", headers=admin))["items"] == []
    (ended,) = (await guarded.get("/api/v1/tokens?all=true", headers=admin))["items"]
    assert (ended["state"], ended["revoked_by"]) == ("revoked", "token:admin")


async def test_a_token_that_was_used_says_when_and_from_where(site: Site, conn: asyncpg.Connection) -> None:
    token = await make_token(conn, "viewer")
    await site.get("/api/v1/jobs", headers=bearer(token))
    await site.state.tokens.poll()
    first = await conn.fetchrow("select last_used_at, last_used_from from ingestd.token")
    assert first is not None
    assert first["last_used_from"] == "127.0.0.1"
    await site.get("/api/v1/jobs", headers=bearer(token))
    await site.state.tokens.poll()
    assert await conn.fetchval("select last_used_at from ingestd.token") == first["last_used_at"], "written once a minute"


async def test_tokens_are_known_while_postgres_is_away(guarded: Site, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await make_token(conn, "viewer")
    await guarded.state.tokens.refresh()

    @asynccontextmanager
    async def away() -> AsyncIterator[asyncpg.Connection]:
        raise ConnectionRefusedError("away")
        yield conn

    monkeypatch.setattr(guarded.state.db, "services", away)
    await guarded.get("/health/ready", headers=bearer(token))
    await guarded.get("/health", 503, headers=bearer(token))
    problem = await guarded.get("/health", 503, headers=bearer(tokens.make("viewer").text))
    assert "tokens cannot be looked up" in problem["detail"] or "not reachable" in problem["detail"]


@asynccontextmanager
async def served(site: Site, most: int, *times_s: float) -> AsyncIterator[AdminServer]:
    """Another server on the same state, with room for few connections."""
    server = AdminServer(site.state, AdminSettings(port=0), Connections(most, *times_s))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def hold(server: AdminServer, start: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that is held, and perhaps begins a request that it never ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(start)
    return reader, writer


async def health_s(site: Site, server: AdminServer) -> float:
    """Seconds that a health answer takes on a new connection."""
    began = time.perf_counter()
    async with site.client.get(f"http://127.0.0.1:{server.port}/health/live", headers={"Connection": "close"}) as response:
        assert response.status == 200
    return time.perf_counter() - began


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of a thousand connections are open in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_a_thousand_idle_connections_do_not_hurt_health_answers(site: Site) -> None:
    async with served(site, 200, 60) as server:
        start = [b"", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: "]
        held = [await hold(server, start[number % 2]) for number in range(1000)]
        times = sorted([await health_s(site, server) for _ in range(20)])
        assert times[-1] < 2.0 * CROWDED, times
        assert len(server._connections) <= 200
        for _, writer in held:
            writer.close()
        await asyncio.gather(*[writer.wait_closed() for _, writer in held], return_exceptions=True)


async def test_a_request_that_never_ends_is_cut_off(site: Site) -> None:
    async with served(site, 50, 0.3) as server:
        reader, writer = await hold(server, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n")
        dripping = asyncio.create_task(_drip(writer))
        async with asyncio.timeout(20):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        dripping.cancel()
        writer.close()
        await eventually(lambda: len(server._connections) == 0)


async def test_whoever_does_not_take_an_answer_does_not_hold_it_forever(site: Site) -> None:
    async with served(site, 50, 60, 0.3) as server:
        ask = f"GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode()
        held = socket.create_connection(("127.0.0.1", server.port))
        held.setblocking(False)
        held.send(ask * 50)
        await eventually(lambda: len(server._connections) == 1)
        await eventually(lambda: len(server._connections) == 0)
        held.close()


async def test_a_packed_body_is_never_unpacked(guarded: Site) -> None:
    """A gigabyte in a megabyte, from somebody without a token, would hold up everybody while it is thrown away."""
    packer = zlib.compressobj(9)
    begin = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    reader, writer = await asyncio.open_connection("127.0.0.1", guarded.server.port)
    body = begin + block * 1000
    head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost:{guarded.server.port}\r\nContent-Encoding: deflate\r\n"
    began = time.process_time()
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    async with asyncio.timeout(60):
        assert b"401" in await reader.readline()
        await reader.read()
    writer.close()
    assert time.process_time() - began < 1.0


async def _drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"X-Slow: 1\r\n")
        await asyncio.sleep(0.1)


async def test_a_connection_at_work_is_not_the_one_that_makes_room(site: Site) -> None:
    async with served(site, 2, 60) as server:
        body = b'{"kind": "sync_prices"}'
        lines = [
            "POST /api/v1/jobs HTTP/1.1",
            f"Host: localhost:{server.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        head = "\r\n".join([*lines, "", ""])
        reader, working = await hold(server, head.encode() + body[:5])
        await eventually(lambda: len(server._connections._busy) == 1)
        idle = [await hold(server) for _ in range(5)]
        working.write(body[5:])
        async with asyncio.timeout(20):
            assert b"201 Created" in await reader.readline()
        for _, writer in [*idle, (reader, working)]:
            writer.close()
