"""On loopback, the owner of the socket decides who may act."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys

import pytest

from ingestd.access.roles import Actor
from ingestd.admin import identity, peers
from ingestd.admin.peers import socket_owner
from tests.admin.conftest import Site

ASK = """
import http.client, json, sys
c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=10)
c.request("POST", "/api/v1/jobs", '{"kind": "sync_prices"}', {"Content-Type": "application/json"})
r = c.getresponse(); print(r.status, r.read().decode())
c.request("GET", "/api/v1/jobs"); print(c.getresponse().status)
"""


async def test_a_socket_of_ours_is_known_as_ours() -> None:
    """IPv4 and IPv6, by the kernel's own table."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as listener, socket.socket(family) as client:
            listener.bind((host, 0))
            listener.listen()
            client.connect(listener.getsockname())
            accepted, peer = listener.accept()
            with accepted:
                assert socket_owner(peer, accepted.getsockname()) == os.getuid()
                assert socket_owner((host, 1), accepted.getsockname()) is None


def test_a_socket_that_was_closed_belongs_to_nobody() -> None:
    """The kernel gives those to user 0 until they are gone: whoever sent a request and closed at once would act as root."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, peer = listener.accept()
        client.close()
        with accepted:
            assert accepted.recv(1) == b""
            assert socket_owner(peer, accepted.getsockname()) is None


@pytest.mark.parametrize("peer", [("nonsense", 1), ("127.0.0.1", 1)])
def test_what_the_kernel_does_not_list_is_a_stranger(peer: tuple[str, int]) -> None:
    """No guess is made."""
    assert socket_owner(peer, ("127.0.0.1", 2)) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_another_user_of_the_machine_may_look_but_not_touch(site: Site) -> None:
    """Their socket is theirs, whatever they send."""
    python = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    process = await asyncio.create_subprocess_exec(
        python, "-c", ASK, str(site.server.port), user=65534, group=65534, extra_groups=[], cwd="/",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output = (await asyncio.wait_for(process.communicate(), 90))[0].decode()
    refused, read = output.strip().splitlines()
    assert refused.startswith("403 ")
    assert "a viewer may not do this" in refused
    assert read == "200"


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Forwarded-Proto", "Via"])
async def test_what_a_proxy_passes_on_is_not_the_daemons_own_user(site: Site, name: str) -> None:
    """Nobody declared one: it must not lend out the rights of whoever runs it."""
    problem = await site.post("/api/v1/jobs", 403, json={"kind": "sync_prices"}, headers={name: "192.0.2.1"})
    assert "a viewer may not do this" in problem["detail"]


async def test_who_acts_is_written_down(site: Site) -> None:
    """The audit row names the user id of the socket, and what came with the request."""
    made = await site.post("/api/v1/jobs", 201, json={"kind": "sync_prices"}, headers={"X-Correlation-ID": "c-1"})
    (row,) = (await site.get(f"/api/v1/audit?object_type=job&object_id={made['id']}"))["items"]
    assert row["actor"] == f"local:{os.getuid()}"
    assert (row["role"], row["via"], row["action"], row["correlation_id"]) == ("operator", "api", "enqueue", "c-1")


async def test_nobody_on_loopback_is_an_admin(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the daemon's own user: without a token an operator is the most one gets; without a known owner, a viewer."""
    seen: list[Actor] = []
    resolve = identity.Identity.actor

    async def spy(self: identity.Identity, *given: object) -> Actor:
        seen.append(await resolve(self, *given))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(identity.Identity, "actor", spy)
    await site.get("/api/v1/jobs")
    assert seen[-1].role == "operator"
    monkeypatch.setattr(peers, "socket_owner", lambda *_: None)
    await site.get("/api/v1/jobs", headers={"Connection": "close"})  # the connection's owner has been looked up already
    await site.get("/api/v1/jobs")
    assert seen[-1].role == "viewer"
