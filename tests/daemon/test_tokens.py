"""Tokens on real nodes: a new one is known and a revoked one refused everywhere at once, and the socket needs none."""

from __future__ import annotations

import asyncio
import json
import ssl
import time

import aiohttp
import asyncpg

from tests.daemon.harness import Daemon, Site
from tests.support import CROWDED, eventually
from tests.tokens import bearer, make_token

# A change that no one is told of is found after five seconds: the next reading's time.
PROMISED_S = min(1.0 * CROWDED, 4.5)
REVOKE = "update ingestd.token set revoked_at = now(), revoked_by = 'the test' where name = $1"


async def refused_after(daemons: list[Daemon], token: str) -> float:
    """Seconds until each of the nodes refuses a token."""
    began = time.monotonic()

    async def refused() -> bool:
        return [(await daemon.get("/api/v1/queues", headers=bearer(token)))[0] for daemon in daemons] == [401] * len(daemons)

    await eventually(refused)
    return time.monotonic() - began


async def test_every_node_knows_a_token_at_once_and_refuses_it_within_a_second_of_its_end(site: Site, conn: asyncpg.Connection) -> None:
    site.configure(admin="port = 0")
    one = await site.start()
    two = await site.start("--duties", "serve")
    token = await make_token(conn, "operator", "ci")
    for daemon in (one, two):
        assert (await daemon.get("/api/v1/queues", headers=bearer(token)))[0] == 200
    # What is open for it ends with it, on the other node too.
    accept = bearer(token) | {"Accept": "text/event-stream"}
    async with aiohttp.ClientSession() as client, client.get(two.url + "/api/v1/events", headers=accept) as stream:
        assert stream.status == 200
        status, _ = await one.post("/api/v1/tokens/ci/revoke", headers=bearer(await make_token(conn, "admin")))
        assert status == 200
        assert await refused_after([one, two], token) < PROMISED_S
        async with asyncio.timeout(20):
            while True:
                try:
                    if not await stream.content.readany():
                        break
                except aiohttp.ClientError:
                    break
    other = await make_token(conn, "viewer", "by-hand")
    assert (await two.get("/api/v1/queues", headers=bearer(other)))[0] == 200
    await conn.execute(REVOKE, "by-hand")
    assert await refused_after([one, two], other) < PROMISED_S
    status, _ = await one.post("/api/v1/jobs", {"kind": "health"}, headers=bearer(other))
    assert status == 401
    denied = "select count(*) from ingestd.audit where outcome = 'denied' and action = 'POST /api/v1/jobs'"
    await eventually(lambda: conn.fetchval(denied))


async def test_over_tls_and_on_the_socket_of_a_real_node(site: Site, conn: asyncpg.Connection) -> None:
    cert, key, sock = site.folder / "tls.crt", site.folder / "tls.key", site.folder / "a.sock"
    made = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
        "-keyout", str(key), "-out", str(cert), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await made.wait() == 0
    site.configure(admin=f'port = 0\nhost = "0.0.0.0"\ntls_cert = "{cert}"\ntls_key = "{key}"\nsocket = "{sock}"')
    daemon = site.launch()
    assert await daemon.ended() == 78
    assert "no token with which anybody could come in" in daemon.log()
    token = await make_token(conn, "viewer")
    daemon = site.launch()

    async def over_tls(path: str, **how: object) -> int:
        port = (site.state / "admin.port").read_text().strip()
        trust = ssl.create_default_context(cafile=str(cert))
        trust.check_hostname = False
        async with aiohttp.ClientSession() as client, client.get(f"https://127.0.0.1:{port}{path}", ssl=trust, **how) as answer:  # type: ignore[arg-type]
            return answer.status

    async def ready() -> bool:
        assert daemon.alive, daemon.log()
        return bool(daemon.events("NodeStarted")) and await over_tls("/health/ready") == 200

    await eventually(ready)
    assert await over_tls("/api/v1/queues") == 401
    assert await over_tls("/api/v1/queues", headers=bearer(token)) == 200
    local = aiohttp.UnixConnector(str(sock))
    asked = {"url": "http://localhost/api/v1/jobs", "json": {"kind": "health"}}
    async with aiohttp.ClientSession(connector=local) as client, client.post(**asked) as answer:  # type: ignore[arg-type]
        assert (answer.status, json.loads(await answer.text())["kind"]) == (201, "health")
    assert await daemon.stop() == 0
    assert not sock.exists()
