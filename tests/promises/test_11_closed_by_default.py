"""Promise 11 against a live daemon: loopback only, our Host only, no other site's pages, secrets told to nobody, changes audited."""

from __future__ import annotations

import secrets
import socket
from urllib.parse import urlsplit

import asyncpg

from tests.daemon.harness import Site

JOB = {"kind": "health"}

ELSEWHERE = [
    ({"Host": "evil.example"}, "does not answer to the host"),
    ({"Host": "127.0.0.1:1"}, "does not answer to the host"),
    ({"Sec-Fetch-Site": "cross-site"}, "another site may not act"),
    ({"Origin": "http://evil.example"}, "another site may not act"),
    ({"Cookie": "a=b"}, "another site may not act"),
    ({"Authorization": "Bearer 1234567890123456"}, "token is not valid"),
]


async def test_only_loopback_is_listened_on_and_nothing_else_can_be_asked_for(site: Site) -> None:
    daemon = await site.start()
    port = urlsplit(daemon.url).port
    assert port is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells which address the outside would see
        outside = probe.getsockname()[0]
    with socket.socket() as caller:
        assert caller.connect_ex((outside, port)) != 0
    site.configure(admin='host = "0.0.0.0"')
    refused = site.launch()
    assert await refused.ended() == 78
    assert "only loopback" in refused.log()
    assert "Traceback" not in refused.log()


async def test_a_request_from_elsewhere_is_refused_and_changes_nothing(site: Site, conn: asyncpg.Connection) -> None:
    daemon = await site.start()
    for headers, what in ELSEWHERE:
        status, problem = await daemon.post("/api/v1/jobs", JOB, headers=headers)
        assert (headers, status) in ((headers, 401), (headers, 403))
        assert what in problem["detail"], (headers, problem)
    assert await conn.fetchval("select count(*) from ingestd.audit where outcome = 'done'") == 0
    assert await conn.fetchval("select count(*) from ingestd.history where kind = $1", JOB["kind"]) == 0


async def test_a_change_is_in_the_audit_log_with_who_made_it(site: Site, conn: asyncpg.Connection) -> None:
    daemon = await site.start()
    status, job = await daemon.post("/api/v1/jobs", JOB, headers={"X-Correlation-ID": "from-the-test"})
    assert status == 201
    row = await conn.fetchrow("select * from ingestd.audit")
    assert row is not None
    assert (row["action"], row["object_type"], row["object_id"], row["via"], row["correlation_id"]) == (
        "enqueue",
        "job",
        job["id"],
        "api",
        "from-the-test",
    )


async def test_with_a_token_only_its_holder_may_act_and_nobody_is_told_it(site: Site) -> None:
    token = secrets.token_urlsafe(24)
    site.configure(admin=f'port = 0\ntoken = "{token}"')
    daemon = await site.start("-v")
    assert (await daemon.post("/api/v1/jobs", JOB))[0] == 401
    assert (await daemon.post("/api/v1/jobs", JOB, headers={"Authorization": "Bearer " + token[:-1] + "~"}))[0] == 401
    assert (await daemon.post("/api/v1/jobs", JOB, headers={"Authorization": f"Bearer {token}"}))[0] == 201
    said = [str(await daemon.get(path)) for path in ("/", "/health", "/metrics", "/api/v1/nodes", "/api/v1/jobs", "/nowhere")]
    assert token not in "".join([*said, daemon.log()])
