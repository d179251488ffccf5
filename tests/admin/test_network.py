"""The server where others can reach it: TLS, proxies, the Unix socket, and that nobody comes in there without a token."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from ingestd.admin.connections import Connections
from ingestd.admin.server import AdminServer
from ingestd.admin.settings import AdminSettings
from ingestd.cli.address import Address
from ingestd.cli.api import connect_api
from ingestd.cli.api_errors import DaemonUnreachable
from ingestd.errors import ConfigurationError, PortTaken, Refused
from ingestd.settings import Layers, validate
from tests.admin.conftest import TOKEN, Open, Site
from tests.support import eventually
from tests.tokens import bearer, make_token

JOB = {"kind": "sync_prices"}
PUBLIC = "https://ingestd.example.com"
PROXY = {"behind_proxy": True, "public_url": PUBLIC}


@pytest.fixture
async def certificate(tmp_path: Path) -> dict[str, Any]:
    """Paths of a certificate for localhost and its key."""
    return await make_certificate(tmp_path)


async def make_certificate(folder: Path) -> dict[str, Any]:
    """Make one; those of the same folder are overwritten."""
    cert, key = folder / "tls.crt", folder / "tls.key"
    made = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await made.wait() == 0
    return {"tls_cert": cert, "tls_key": key}


def local(site: Site) -> str:
    """The address that is bound, whatever the public one is."""
    return f"http://127.0.0.1:{site.server.port}"


async def status(site: Site, path: str, method: str = "GET", **how: Any) -> int:
    async with site.client.request(method, local(site) + path, **how) as response:
        return response.status


def problem_of(settings: dict[str, Any]) -> str:
    layers = Layers()
    layers.merge(settings, "x.toml")
    with pytest.raises(ConfigurationError) as caught:
        validate(AdminSettings, layers)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tls_cert": "/x"}, "belong together"),
        ({"tls_cert": "/nowhere", "tls_key": "/nowhere"}, "tls_cert: cannot read /nowhere"),
        ({"behind_proxy": True}, "takes public_url"),
        ({"trusted_proxies": ["10.0.0.1"]}, "without behind_proxy"),
        ({"trusted_proxies": ["the proxy"]}, '"the proxy" is not an address or network'),
        (PROXY | {"host": "0.0.0.0"}, "takes trusted_proxies"),
        (PROXY | {"trusted_proxies": ["0.0.0.0/0"]}, "is everybody"),
        ({"public_url": "https://me:secret@ingestd.example.com"}, "carries no login"),
        (PROXY | {"trusted_proxies": ["unix"]}, "there is no socket"),
        ({"socket": "/" + 200 * "x"}, "too long for a socket"),
        ({"rate": "many"}, "write a number of requests and a duration"),
    ],
)
def test_what_does_not_fit_together_is_a_configuration_error(settings: dict[str, Any], said: str) -> None:
    assert said in problem_of(settings)


def test_files_that_are_no_certificate_are_told_at_the_check(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("not PEM")
    assert "are not a certificate and its key" in problem_of({"tls_cert": str(tmp_path / "a"), "tls_key": str(tmp_path / "a")})


async def test_off_loopback_it_does_not_start_without_a_token(
    open_site: Open, certificate: dict[str, Any], conn: asyncpg.Connection
) -> None:
    with pytest.raises(ConfigurationError, match="no token with which anybody could come in"):
        await open_site(host="0.0.0.0", **certificate)
    await make_token(conn, "viewer")
    await open_site(host="0.0.0.0", **certificate)


async def test_over_tls_only_tokens_come_in_and_probes_are_answered(
    open_site: Open, certificate: dict[str, Any], conn: asyncpg.Connection
) -> None:
    viewer, operator = await make_token(conn, "viewer"), await make_token(conn, "operator")
    site = await open_site(host="0.0.0.0", **certificate)
    url = f"https://localhost:{site.server.port}"
    trust = ssl.create_default_context(cafile=str(certificate["tls_cert"]))

    async def ask(path: str, method: str = "GET", **how: Any) -> int:
        async with site.client.request(method, url + path, ssl=trust, **how) as response:
            return response.status

    assert await ask("/health/live") == 200
    assert [await ask(path) for path in ("/", "/health", "/metrics", "/api/v1/jobs")] == [401] * 4
    assert await ask("/api/v1/jobs", headers=bearer(viewer)) == 200
    assert await ask("/api/v1/jobs", "POST", json=JOB, headers=bearer(viewer)) == 403
    assert await ask("/api/v1/jobs", "POST", json=JOB, headers=bearer(operator)) == 201
    own = f"https://127.0.0.1:{site.server.port}/health/live"
    async with site.client.get(own, ssl=False) as response:  # by the address itself, as probes do
        assert response.status == 200
    async with site.client.get(own, ssl=False, headers={"Host": "evil.example"}) as response:
        assert response.status == 403
    with pytest.raises(aiohttp.ClientError):
        await status(site, "/health/live")  # plain HTTP


@pytest.mark.parametrize(
    ("trusted", "url", "said", "hint"),
    [
        ("", "https://localhost:{port}", "its certificate is not trusted: self-signed certificate", "SSL_CERT_FILE names a file with"),
        ("/nowhere", "https://localhost:{port}", "is not trusted: self-signed certificate", "names /nowhere, which cannot be read"),
        ("{own}", "https://127.0.0.1:{port}", "IP address mismatch, certificate is not valid for '127.0.0.1'", "ask by a name"),
        ("{own}", "http://localhost:{port}", "closed without an answer", "write https://"),
        ("{own}", "https://localhost:{port}", "", ""),
    ],
)
async def test_the_command_line_says_what_is_wrong_with_tls(
    open_site: Open, certificate: dict[str, Any], monkeypatch: pytest.MonkeyPatch, trusted: str, url: str, said: str, hint: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", trusted.format(own=certificate["tls_cert"]))
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", ssl.create_default_context())  # made once a process otherwise
    site = await open_site(token=TOKEN, **certificate)
    async with connect_api(Address(url.format(port=site.server.port)), TOKEN) as api:
        if not said:
            assert (await api.get("/health"))["status"]
            return
        with pytest.raises(DaemonUnreachable) as caught:
            await api.get("/health")
    assert said in caught.value.message
    assert hint in (caught.value.hint or "")


async def test_connections_that_never_begin_to_speak_tls_keep_nobody_out(open_site: Open, certificate: dict[str, Any]) -> None:
    """They would take all files that the process may open, so that it could not even reach Postgres."""
    site = await open_site(token=TOKEN)
    server = AdminServer(site.state, AdminSettings(port=0, token=TOKEN, **certificate), Connections(20))
    await server.start()
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(60)]
    async with asyncio.timeout(20):
        assert await held[0][0].read() == b""  # cut off by those that came later
    assert len(server._connections) <= 20
    async with site.client.get(f"https://localhost:{server.port}/health", ssl=False, headers=bearer(TOKEN)) as answer:
        assert answer.status == 200
    for _, writer in held:
        writer.transport.abort()
    await eventually(lambda: len(server._connections) <= 1)
    await server.stop()


async def test_a_renewed_certificate_is_shown_after_a_reload(open_site: Open, certificate: dict[str, Any], tmp_path: Path) -> None:
    site = await open_site(token=TOKEN, **certificate)

    async def shown() -> str:
        return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", site.server.port), timeout=20)

    before = await shown()
    settings = AdminSettings(port=site.server.port, token=TOKEN, **certificate)
    certificate["tls_key"].write_text("half a renewal")
    site.server.renew(settings)
    assert any("the certificate stays as it was" in str(event) for event in site.events)
    assert await shown() == before
    await make_certificate(tmp_path)
    site.server.renew(settings)
    assert await shown() != before


async def test_a_reload_takes_another_token_and_ends_what_the_old_one_began(open_site: Open) -> None:
    site = await open_site(token=TOKEN, rate="1000/1m")
    other = TOKEN[::-1]
    async with site.client.get(f"{site.url}/api/v1/events", headers=bearer(TOKEN)) as stream:
        await stream.content.readline()
        site.server.renew(AdminSettings(token=other, rate="2/1h"))
        async with asyncio.timeout(20):
            with pytest.raises(aiohttp.ClientError):
                await stream.content.read()
    assert await status(site, "/api/v1/jobs", headers=bearer(TOKEN)) == 401
    assert [await status(site, "/api/v1/jobs", headers=bearer(other)) for _ in range(3)] == [200, 200, 429]


async def test_behind_a_proxy_nobody_counts_as_local(open_site: Open) -> None:
    site = await open_site(token=TOKEN, **PROXY)
    assert await status(site, "/health/ready") == 200
    assert [await status(site, path) for path in ("/", "/api/v1/jobs")] == [401, 401]
    assert await status(site, "/api/v1/jobs", "POST", json=JOB) == 401
    through = {"Host": "ingestd.example.com", "X-Forwarded-For": "192.0.2.7"}
    assert await status(site, "/api/v1/jobs", headers=bearer(TOKEN) | through) == 200
    own_page = bearer(TOKEN) | {"Origin": PUBLIC}  # the proxy sends its own idea of a Host
    assert await status(site, "/api/v1/jobs", "POST", json=JOB, headers=own_page) == 201
    assert await status(site, "/api/v1/jobs", "POST", json=JOB, headers=own_page | {"Origin": "https://evil.example"}) == 403


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("203.0.113.9, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 127.0.0.1", "192.0.2.7"),
        ("192.0.2.7, nonsense", "127.0.0.1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
    ],
)
async def test_the_nearest_address_that_a_trusted_proxy_names_is_the_caller(
    open_site: Open, conn: asyncpg.Connection, forwarded: str, address: str
) -> None:
    """What a caller writes there by itself stands further left, and is believed by nobody."""
    site = await open_site(token=TOKEN, **PROXY)
    assert await status(site, "/api/v1/jobs", "POST", json=JOB, headers=bearer(TOKEN) | {"X-Forwarded-For": forwarded}) == 201
    assert await conn.fetchval("select address from ingestd.audit where action = 'enqueue'") == address


async def test_without_a_declared_proxy_nobody_is_believed(guarded: Site, conn: asyncpg.Connection) -> None:
    await guarded.post("/api/v1/jobs", 201, json=JOB, headers=bearer(TOKEN) | {"X-Forwarded-For": "192.0.2.7"})
    assert await conn.fetchval("select address from ingestd.audit") == "127.0.0.1"


async def test_what_comes_past_the_proxy_is_refused_but_for_probes(open_site: Open) -> None:
    site = await open_site(token=TOKEN, host="0.0.0.0", trusted_proxies=["192.0.2.1"], **PROXY)
    assert await status(site, "/health/live") == 200
    assert await status(site, "/api/v1/jobs", headers=bearer(TOKEN)) == 403


async def test_on_the_unix_socket_the_kernel_says_who_it_is(open_site: Open, tmp_path: Path, conn: asyncpg.Connection) -> None:
    path = tmp_path / "admin.sock"
    site = await open_site(token=TOKEN, socket=path)
    assert path.stat().st_mode & 0o777 == 0o660
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client:
        async with client.post("http://localhost/api/v1/jobs", json=JOB) as response:
            assert response.status == 201
        async with client.post("http://localhost/api/v1/jobs", json=JOB, headers={"X-Forwarded-For": "192.0.2.7"}) as response:
            assert response.status == 401
        async with client.post("http://localhost/api/v1/tokens", json={"name": "x"}) as response:
            assert response.status == 401  # never an admin
    assert await conn.fetchval("select actor || ' ' || role || ' ' || address from ingestd.audit") == f"local:{os.getuid()} operator unix"
    with pytest.raises(PortTaken, match="is in use"):
        await open_site(token=TOKEN, socket=path)
    await site.server.stop()
    assert not path.exists()


async def test_a_socket_left_by_a_dead_process_is_replaced_and_a_file_is_not(open_site: Open, tmp_path: Path) -> None:
    import socket

    left, file = tmp_path / "left.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    await open_site(socket=left)
    file.write_text("mine")
    with pytest.raises(Refused, match="cannot listen on"):
        await open_site(socket=file)
    assert file.read_text() == "mine"
