"""Requests that another site's page could have caused are refused."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from multidict import CIMultiDict

from ingestd.admin.guard import Hosts, origin
from ingestd.admin.settings import AdminSettings
from ingestd.errors import ConfigurationError
from ingestd.settings import Layers, validate
from tests.admin.conftest import Open, Site

SAME = {"Sec-Fetch-Site": "same-origin"}


async def raw(site: Site, request: str) -> str:
    """Send bytes as they are and return the head of the answer."""
    parts = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request.replace("\n", "\r\n").encode())
    await writer.drain()
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 60)
    writer.close()
    await writer.wait_closed()
    return answer.decode().split(" ", 1)[1].strip()


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "LOCALHOST:{port}"])
async def test_loopback_names_with_our_port_are_ours(site: Site, host: str) -> None:
    """However this machine calls itself."""
    await site.get("/health/live", headers={"Host": host.format(port=site.server.port)})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:{port}",
        "localhost",
        "x",
        "[::1",
        "127.0.0.1:1",
        "localhost.evil.example:{port}",
        "user@localhost:{port}",
        "localhost:{port}/x",
        "localhost:{port}?x",
        "127.0.0.2:{port}",
    ],
)
async def test_any_other_host_is_refused(site: Site, host: str) -> None:
    """A name that an attacker points at 127.0.0.1 gets nothing, not even a probe's answer."""
    problem = await site.get("/health/live", 403, headers={"Host": host.format(port=site.server.port)})
    assert problem["type"] == "urn:ingestd:problem:refused"


async def test_no_host_and_two_hosts_are_bad_requests(site: Site) -> None:
    """There must be exactly one."""
    assert await raw(site, "GET /health/live HTTP/1.0\n\n") == "400 Bad Request"
    port = site.server.port
    assert (await raw(site, f"GET /health/live HTTP/1.1\nHost: localhost:{port}\nHost: evil.example\n\n")).startswith("400")
    assert (await raw(site, f"GET http://evil.example/health/live HTTP/1.1\nHost: localhost:{port}\n\n")).startswith("400")
    assert (await raw(site, f"GET http://localhost:{port}/health/live HTTP/1.1\nHost: localhost:{port}\n\n")).startswith("200")


async def test_the_public_address_is_ours_too(open_site: Open) -> None:
    """A tunnel's address is allowed once it is configured, as host and as origin."""
    site = await open_site(public_url="http://localhost:9000/")
    assert site.url == "http://localhost:9000"
    base = f"http://127.0.0.1:{site.server.port}"
    async with site.client.get(f"{base}/health/live", headers={"Host": "localhost:9000"}) as response:
        assert response.status == 200
    headers = {"Host": "localhost:9000", "Origin": "http://localhost:9000"}
    async with site.client.post(f"{base}/api/v1/jobs", json={"kind": "sync_prices"}, headers=headers) as response:
        assert response.status == 201


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        (SAME, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "{own}"}, 403),
        ({"Origin": "{own}"}, 201),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Cookie": "a=b"}, 403),
        (CIMultiDict([("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")]), 403),
        ({"Cookie": "a=b", "Origin": "{own}"}, 201),
    ],
)
async def test_only_our_own_page_and_no_page_may_act(site: Site, headers: dict[str, str], status: int) -> None:
    """Sec-Fetch-Site decides, else Origin, else the absence of anything a browser adds by itself."""
    given = CIMultiDict((name, value.format(own=site.url)) for name, value in headers.items())
    await site.post("/api/v1/jobs", status, json={"kind": "sync_prices"}, headers=given)


async def test_a_foreign_page_may_link_here_but_not_read(site: Site) -> None:
    """Following a link is fine; a script's fetch is not."""
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    await site.get("/", headers=link)
    await site.get("/api/v1/jobs", 403, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})


async def test_a_refused_request_changed_nothing(site: Site) -> None:
    """It is refused before the handler."""
    await site.post("/api/v1/jobs", 403, json={"kind": "sync_prices"}, headers={"Origin": "http://evil.example"})
    assert (await site.get("/api/v1/jobs"))["items"] == []


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("0.0.0.0", "only loopback"),
        ("::", "only loopback"),
        ("192.168.1.4", "only loopback"),
        ("example.com", "not an address"),
        ("", "not an"),
    ],
)
def test_without_tls_only_loopback_can_be_configured(host: str, why: str) -> None:
    """Anything else is a configuration error that says so."""
    layers = Layers()
    layers.merge({"host": host}, "x.toml")
    with pytest.raises(ConfigurationError, match=why):
        validate(AdminSettings, layers)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.53"])
def test_every_loopback_address_can_be_configured(host: str) -> None:
    """The whole of 127/8, ::1, and the name."""
    assert AdminSettings(host=host).host == host.strip("[]")


@pytest.mark.parametrize("url", ["localhost", "ftp://x", "http://", "http://x/path", "http://x:99999", "http://[::1"])
def test_a_public_address_must_be_one(url: str) -> None:
    """It is an origin: scheme, host, port."""
    layers = Layers()
    layers.merge({"public_url": url}, "x.toml")
    with pytest.raises(ConfigurationError, match="is not an address"):
        validate(AdminSettings, layers)


def test_an_origin_is_a_host_and_a_port() -> None:
    """Default ports are filled in; what is no URL is none."""
    assert origin("http://A.example") == ("a.example", 80)
    assert origin("https://a.example") == ("a.example", 443)
    assert origin("http://[::1]:8420") == ("::1", 8420)
    assert origin("null") is None
    assert origin("http://x:notaport") is None
    assert Hosts("127.0.0.1", 1)


async def test_a_port_in_use_is_told_with_a_remedy(open_site: Open, site: Site) -> None:
    """Not a traceback: the address, and what to set."""
    from ingestd.errors import PortTaken

    with pytest.raises(PortTaken, match=f"127.0.0.1:{site.server.port} is in use") as caught:
        await open_site(port=site.server.port)
    assert "INGESTD_ADMIN__PORT" in str(caught.value.hint)
    assert caught.value.exit_code == 73


async def test_the_server_serves_on_ipv6_too(open_site: Open) -> None:
    """Host, peer and address in brackets all work."""
    site = await open_site(host="::1")
    assert site.url.startswith("http://[::1]:")
    await site.post("/api/v1/jobs", 201, json={"kind": "sync_prices"})
