"""Every error is a problem document, and none tells about our insides."""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from ingestd.access.roles import Via
from ingestd.admin import routes
from ingestd.admin.api import bulk, enqueue, jobs, schedules, tokens, workflows
from ingestd.admin.problems import InvalidBody, problem_of
from ingestd.admin.shapes import parse
from ingestd.errors import Conflict, InvalidInput, NotFound
from ingestd.events import Notice
from ingestd.jobs.filters import TRIGGERS
from tests.admin.conftest import Open, Site

JSON = {"Content-Type": "application/json"}
MEMBERS = {"type", "title", "status", "detail", "instance", "correlation_id"}


@pytest.mark.parametrize(
    ("method", "path", "how", "status", "slug"),
    [
        ("GET", "/api/v1/nothing", {}, 404, "not-found"),
        ("GET", "/api/v1/jobs/12345", {}, 404, "not-found"),
        ("GET", "/api/v1/jobs/abc", {}, 404, "not-found"),
        ("GET", "/api/v1/jobs/99999999999999999999", {}, 404, "not-found"),
        ("PUT", "/api/v1/jobs", {}, 405, "method-not-allowed"),
        ("POST", "/api/v1/jobs", {"data": io.BytesIO(b"x" * (2 << 20 | 1)), "headers": JSON}, 413, "body-too-large"),
        ("POST", "/api/v1/jobs", {"data": b"{", "headers": JSON}, 400, "bad-request"),
        ("POST", "/api/v1/jobs", {"data": b"kind=x"}, 400, "bad-request"),
        ("POST", "/api/v1/jobs", {"json": []}, 422, "invalid-input"),
        ("POST", "/api/v1/jobs", {"json": {}}, 422, "invalid-input"),
        ("POST", "/api/v1/jobs", {"json": {"kind": "sync_price"}}, 422, "invalid-input"),
        ("POST", "/api/v1/jobs/1/retry", {}, 404, "not-found"),
        ("GET", "/api/v1/jobs?limit=0", {}, 400, "bad-request"),
        ("GET", "/api/v1/jobs?limit=1&limit=2", {}, 400, "bad-request"),
        ("GET", "/api/v1/jobs?from=yesterday", {}, 400, "bad-request"),
        ("GET", "/api/v1/jobs?cursor=!!", {}, 400, "bad-request"),
        ("POST", "/api/v1/jobs", {"data": b"{}", "headers": JSON | {"Content-Encoding": "gzip"}}, 415, "unsupported-media-type"),
        ("POST", "/api/v1/jobs", {"data": b"{}", "headers": JSON | {"Content-Encoding": "br"}}, 415, "unsupported-media-type"),
        ("POST", "/api/v1/jobs", {"data": b"{}", "headers": JSON | {"Expect": "the best"}}, 417, "expectation-failed"),
        ("GET", "/api/v1/jobs", {"headers": {"X-Long": "x" * 9000}}, 431, "header-too-large"),
        ("GET", "/api/v1/rollups/%00", {}, 404, "not-found"),
        ("POST", "/api/v1/schedules/%00/trigger", {}, 404, "not-found"),
        ("GET", "/static/nothing.js", {}, 404, "not-found"),
        ("GET", "/static/../settings.py", {}, 404, "not-found"),
        ("GET", "/health/nothing", {}, 404, "not-found"),
    ],
)
async def test_every_error_is_a_problem_document(site: Site, method: str, path: str, how: Any, status: int, slug: str) -> None:
    """aiohttp's own errors as well as ours."""
    async with site.request(method, path, **how) as response:
        body = await response.json(content_type="application/problem+json")
    assert (response.status, body["type"]) == (status, f"urn:ingestd:problem:{slug}")
    assert set(body) >= MEMBERS
    assert body["status"] == status
    assert body["correlation_id"] == response.headers["X-Correlation-ID"]
    assert body["instance"] == f"/requests/{body['correlation_id']}"


@pytest.mark.parametrize(
    ("sent", "status", "detail"),
    [
        (b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", 403, 'this server does not answer to the host "?"'),
        (b"GET /api/v1/events HTTP/1.1\r\nHost: {host}\r\nLast-Event-ID: \xff\r\n\r\n", 400, '"?" is not the id of an event'),
        (b"GET / HTTP/1.1\r\nHost: {host}\r\nsecret\r\n\r\n", 400, "this is no HTTP request: Invalid header token"),
        (b"GET secret HTTP/1.1\r\n\r\n", 400, "this is no HTTP request: Invalid characters in url"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "this port speaks plain HTTP: write http://"),
    ],
)
async def test_bytes_that_are_no_text_and_no_request_get_a_problem_document_too(site: Site, sent: bytes, status: int, detail: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
    writer.write(sent.replace(b"{host}", b"localhost:%d" % site.server.port))
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line.split(":")[1]) for line in head.splitlines() if line.startswith("Content-Length"))
        problem = json.loads(await reader.readexactly(length))
    writer.close()
    assert (problem["status"], problem["detail"][: len(detail)]) == (status, detail)
    assert "secret" not in problem["detail"]
    for header in ("Content-Type: application/problem+json", "Content-Security-Policy: default-src 'none'", "Cache-Control: no-store"):
        assert header in head
    assert f"X-Correlation-ID: {problem['correlation_id']}" in head
    assert not any(isinstance(event, Notice) for event in site.events)


async def test_a_body_that_does_not_arrive_is_no_fault_of_postgres(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "BODY_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
    head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost:{site.server.port}\r\nContent-Length: 9\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(20):
        assert b"408" in await reader.readline()
    writer.close()


async def test_a_typo_in_the_query_is_refused_with_a_suggestion(site: Site) -> None:
    """It would silently list everything otherwise."""
    problem = await site.get("/api/v1/jobs?stat=failed", 400)
    assert problem["detail"] == 'unknown query parameter "stat", did you mean "state"?'
    problem = await site.get("/api/v1/jobs?state=faild", 400)
    assert problem["detail"] == '"state" cannot be "faild", did you mean "failed"?'
    for path in ("/api/v1/jobs", "/api/v1/jobs/dead"):
        assert (await site.get(f"{path}?triggered_by=clip", 400))["detail"] == '"triggered_by" cannot be "clip", did you mean "cli"?'
    assert "; one of: schedule, api, cli, " in (await site.get("/api/v1/jobs?triggered_by=zebra", 400))["detail"]


@pytest.mark.parametrize("word", [*TRIGGERS, ""])
async def test_whatever_triggers_can_be_asked_for(site: Site, word: str) -> None:
    """An empty word is none: forms send all of their fields."""
    assert (await site.get(f"/api/v1/jobs?triggered_by={word}"))["items"] == []
    entrances = {*get_args(Via)} - {"system"}  # which nobody comes through
    assert entrances <= {*TRIGGERS}


def flags() -> list[tuple[str, type[BaseModel], str]]:
    """Every member of a body that is true or false."""
    return [
        (f"{route.method} {route.path} {name}", route.body, field.alias or name)
        for module in (bulk, enqueue, jobs, schedules, tokens, workflows)
        for route in module.routes()
        if route.body is not None
        for name, field in route.body.model_fields.items()
        if field.annotation in (bool, bool | None)
    ]


@pytest.mark.parametrize(("body", "member"), [pytest.param(body, member, id=where) for where, body, member in flags()])
@pytest.mark.parametrize("wrong", ["no", "true", 0, 1])
def test_no_body_takes_a_text_or_number_for_true_or_false(body: type[BaseModel], member: str, wrong: object) -> None:
    with pytest.raises(InvalidBody) as caught:
        parse(body, {member: wrong})
    assert any(pointer == f"/{member}" and "boolean" in text for pointer, text in caught.value.problems)


async def test_a_wrong_body_names_every_member_that_is_wrong(site: Site) -> None:
    """With a JSON pointer each."""
    body = {"kind": "sync_prices", "priority": "urgent", "queu": "x", "max_attempts": 0}
    problem = await site.post("/api/v1/jobs", 422, json=body)
    found = {error["pointer"]: error["detail"] for error in problem["errors"]}
    assert found["/queu"] == 'unknown member "queu", did you mean "queue"?'
    assert set(found) == {"/queu", "/priority", "/max_attempts"}


async def test_an_allowed_method_is_named(site: Site) -> None:
    """405 comes with Allow."""
    async with site.request("DELETE", "/api/v1/jobs") as response:
        assert response.status == 405
        assert set(response.headers["Allow"].split(",")) >= {"GET", "POST"}


async def test_an_unexpected_error_is_logged_whole_and_shown_empty(open_site: Open) -> None:
    """The caller gets a correlation id, the log the traceback under it."""

    def broken() -> tuple[bool, str]:
        raise RuntimeError("secret of the house")

    site = await open_site(state={"ready": broken})
    async with site.request("GET", "/health/ready") as response:
        text = await response.text()
        assert response.status == 500
    assert "secret" not in text
    assert "Traceback" not in text
    (notice,) = [event for event in site.events if isinstance(event, Notice)]
    assert notice.level == "error"
    assert notice.details["correlation_id"] == response.headers["X-Correlation-ID"]
    assert "secret of the house" in notice.details["traceback"]


@pytest.mark.parametrize("given", ["abc", "A.b_c-9", "x" * 64])
async def test_a_well_formed_correlation_id_is_kept(site: Site, given: str) -> None:
    """It goes into the answer and onto the job."""
    made = await site.post("/api/v1/jobs", 201, json={"kind": "sync_prices"}, headers={"X-Correlation-ID": given})
    assert made["correlation_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "ä", "a\tb", "<script>"])
async def test_any_other_correlation_id_is_replaced(site: Site, given: str) -> None:
    """By one of ours."""
    async with site.request("GET", "/health/live", headers={"X-Correlation-ID": given}) as response:
        assert uuid.UUID(response.headers["X-Correlation-ID"])


async def test_people_get_a_page_and_programs_a_document(site: Site) -> None:
    """By what they accept; the API never answers with a page."""
    wants = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = await site.get("/nothing", 404, headers=wants)
    assert "<!doctype html>" in page
    assert "There is nothing at this address." in page
    assert (await site.get("/api/v1/nothing", 404, headers=wants))["status"] == 404
    assert (await site.get("/nothing", 404, headers=wants | {"HX-Request": "true"}))["status"] == 404


async def test_every_answer_carries_the_security_headers(site: Site) -> None:
    """Pages, documents, files and errors alike; inline scripts and styles have no chance."""
    for path in ("/", "/api/v1/jobs", "/nothing", "/static/page.css", "/health/live"):
        async with site.request("GET", path) as response:
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["X-Frame-Options"] == "DENY"
            assert response.headers["Server"] == "ingestd"
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_database_that_is_away_is_503_with_a_time_to_come_back(open_site: Open, dsn: str) -> None:
    """Not a 500: it will be back."""
    from ingestd.postgres.pool import Database

    away = Database("postgresql://postgres@/x?host=/nonexistent")
    await away.open()
    site = await open_site(state={"db": away})
    async with site.request("GET", "/api/v1/jobs") as response:
        body = await response.json(content_type="application/problem+json")
    assert (response.status, body["type"]) == (503, "urn:ingestd:problem:database-unreachable")
    assert response.headers["Retry-After"] == "2"
    assert not [event for event in site.events if isinstance(event, Notice)]
    await away.close()


def test_our_errors_say_what_they_know() -> None:
    """State, hint and pointer go along."""
    conflict = problem_of(Conflict("no", current_state="running", hint="wait"))
    assert (conflict.status, conflict.extra) == (409, {"hint": "wait", "current_state": "running"})
    invalid = problem_of(InvalidInput("bad", pointer="/x"))
    assert (invalid.status, invalid.extra["errors"]) == (422, [{"pointer": "/x", "detail": "bad"}])
    assert problem_of(NotFound("gone")).status == 404
    assert problem_of(ValueError("our bug")).detail.startswith("Something went wrong")


async def test_a_body_that_nobody_reads_is_refused(site: Site) -> None:
    """Whoever sends a reason believes that it is kept."""
    problem = await site.post("/api/v1/queues/default/pause", 422, json={"reason": "a flood"})
    assert problem["errors"][0]["pointer"] == "/reason"
    await site.post("/api/v1/queues/default/pause", json={})
