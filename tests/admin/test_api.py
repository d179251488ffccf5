"""The resources of the API over a real database."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.schedule.declare import CompiledTarget, apply
from ingestd.schedule.settings import ScheduleSettings
from tests.admin.conftest import Open, Site
from tests.admin.rows import fail_job, finish_job, new_load

JOB_MEMBERS = {
    "id", "kind", "queue", "state", "priority", "args", "attempt", "max_attempts", "run_at", "created_at", "started_at",
    "finished_at", "duration_ms", "node", "correlation_id", "triggered_by", "progress", "result", "error", "tags", "notes", "metadata",
}  # fmt: skip


async def test_a_job_enqueued_over_http_is_there_with_everything_asked_for(site: Site, conn: asyncpg.Connection) -> None:
    """201 with its address; triggered by the API, its correlation id the request's."""
    body = {
        "kind": "sync_prices", "args": {"supplier": "acme", "n": 9007199254740993}, "priority": "high", "tags": ["a"],
        "run_at": "2031-01-01T00:00:00Z", "max_attempts": 2, "notes": "by hand", "metadata": {"ticket": 7},
    }  # fmt: skip
    async with site.request("POST", "/api/v1/jobs", json=body) as response:
        made = await response.json()
        assert response.status == 201
        assert response.headers["Location"] == f"/api/v1/jobs/{made['id']}"
    shown = await site.get(f"/api/v1/jobs/{made['id']}")
    assert set(shown) >= JOB_MEMBERS
    assert isinstance(shown["id"], str)
    assert shown["state"] == "scheduled"
    assert shown["run_at"] == "2031-01-01T00:00:00Z"
    for name in ("kind", "args", "priority", "tags", "max_attempts", "notes", "metadata"):
        assert shown[name] == body[name]
    assert shown["triggered_by"] == "api"


async def test_a_job_takes_every_option_over_http(site: Site, conn: asyncpg.Connection) -> None:
    """Durations and ids as text."""
    options = {
        "queue": "imports", "priority": -5, "delay": "90m", "unique_key": "k", "unique_mode": "replace", "unique_until": "start",
        "unique_for": "2h", "max_attempts": 7, "timeout": "10m", "hard_timeout": "20m", "backoff": {"base": "5s", "factor": 3},
        "key": "customer 7", "key_strict": True, "tags": ["a"], "notes": "n", "metadata": {"m": None}, "correlation_id": "c-1",
        "parent_id": "12",
    }  # fmt: skip
    made = await site.post("/api/v1/jobs", 201, json={"kind": "sync_prices", "args": {"n": 1}, **options})
    assert (made["existing"], made["changed"], made["state"]) == (False, False, "blocked")
    row = await conn.fetchrow("select * from ingestd.job")
    assert (row["rank"], row["unique_key"], row["unique_until"], row["key"], row["key_strict"]) == (5, "k", "start", "customer 7", True)
    assert (row["timeout"], row["hard_timeout"], row["backoff"]["base_s"]) == (timedelta(minutes=10), timedelta(minutes=20), 5)
    assert (row["correlation_id"], row["parent_id"], row["run_at"] - row["created_at"]) == ("c-1", 12, timedelta(minutes=90))
    again = await site.post("/api/v1/jobs", 200, json={"kind": "sync_prices", "args": {"n": 2}, **options})
    assert (again["id"], again["existing"], again["changed"], again["args"]) == (made["id"], True, True, {"n": 2})


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"args": {"limit": "five"}}, "/args/limit"),
        ({"args": {"where": {"city": 1}}}, "/args/where/city"),
        ({"delay": "-1s"}, "/delay"),
        ({"delay": 5}, "/delay"),
        ({"run_at": "2031-01-01T00:00:00"}, "/run_at"),
        ({"run_at": "2031-01-01T00:00:00Z", "delay": "5m"}, "/delay"),
        ({"priority": 101}, "/priority"),
        ({"queue": "no_such_queue"}, "/queue"),
        ({"timeout": "0s"}, "/timeout"),
        ({"backoff": {"colour": 1}}, "/backoff"),
        ({"unique_mode": "replace"}, "/unique_key"),
        ({"unique_key": "k", "unique_mode": "merge"}, "/unique_mode"),
        ({"tags": ["x" * 101]}, "/tags/0"),
        ({"notes": "x" * 10_001}, "/notes"),
        ({"metadata": {"m": "x" * 70_000}}, "/metadata"),
        ({"parent_id": "x"}, "/parent_id"),
    ],
)  # fmt: skip
async def test_a_job_that_makes_no_sense_is_refused_with_its_place(
    site: Site, conn: asyncpg.Connection, body: dict[str, Any], pointer: str
) -> None:
    """422, and nothing is stored."""
    schema = {"properties": {"limit": {"type": "integer"}, "where": {"properties": {"city": {"type": "string"}}}}}
    await conn.execute("update ingestd.kind set arguments = $1 where name = 'sync_prices'", schema)
    problem = await site.post("/api/v1/jobs", 422, json={"kind": "sync_prices"} | body)
    assert problem["errors"][0]["pointer"] == pointer
    assert "\n" not in problem["detail"]
    assert await conn.fetchval("select count(*) from ingestd.job") == 0


async def test_arguments_of_many_megabytes_are_refused(site: Site, conn: asyncpg.Connection) -> None:
    """In words where the body can be read, else by its size."""
    for size, status, said in ((1_050_000, 422, "args of a job takes 1025 KiB"), (10_000_000, 413, "larger than 2 MiB")):
        body = io.BytesIO(b'{"kind": "sync_prices", "args": {"text": "%s"}}' % (b"x" * size))
        async with site.request("POST", "/api/v1/jobs", data=body, headers={"Content-Type": "application/json"}) as response:
            assert response.status == status
            assert said in (await response.json(content_type=None))["detail"]
    assert await conn.fetchval("select count(*) from ingestd.job") == 0


async def test_a_job_of_an_unknown_kind_is_refused_unless_it_is_wanted(site: Site) -> None:
    """With the kind that was meant."""
    problem = await site.post("/api/v1/jobs", 422, json={"kind": "sync_price"})
    assert 'did you mean "sync_prices"?' in problem["detail"]
    assert problem["errors"][0]["pointer"] == "/kind"
    made = await site.post("/api/v1/jobs", 201, json={"kind": "later", "allow_unknown": True})
    assert made["reason"] == 'no live node knows the kind "later"'


async def test_a_unique_key_answers_with_the_job_that_holds_it(site: Site) -> None:
    """Asking twice makes one job."""
    body = {"kind": "sync_prices", "unique_key": "k"}
    first = await site.post("/api/v1/jobs", 201, json=body)
    again = await site.post("/api/v1/jobs", 200, json=body)
    assert (first["existing"], again["existing"], again["id"]) == (False, True, first["id"])


async def test_pages_of_jobs_show_each_job_once_while_new_ones_come(site: Site, conn: asyncpg.Connection) -> None:
    """The cursor is a place in the list, not a page number."""
    ids = await enqueue(conn, [NewJob("sync_prices") for _ in range(7)])
    seen: list[str] = []
    path = "/api/v1/jobs?kind=sync_prices&limit=3"
    page = await site.get(path)
    while True:
        seen += [job["id"] for job in page["items"]]
        if page["next_cursor"] is None:
            break
        await enqueue(conn, [NewJob("sync_prices")])
        page = await site.get(f"{path}&cursor={page['next_cursor']}")
    assert seen == [str(job_id) for job_id in reversed(ids)]


async def test_a_cursor_fits_its_own_filter_only(site: Site, conn: asyncpg.Connection) -> None:
    """And one that was tampered with fits nothing."""
    await enqueue(conn, [NewJob("sync_prices") for _ in range(3)])
    cursor = (await site.get("/api/v1/jobs?limit=1"))["next_cursor"]
    problem = await site.get(f"/api/v1/jobs?limit=1&kind=load&cursor={cursor}", 400)
    assert "belongs to another list or filter" in problem["detail"]
    for raw in (b"[]", b'["x", -1]', b'["x", 1e999]', b"null", b'["x", true]', b'[[["', b'["x", 99999999999999999999]'):
        forged = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        await site.get(f"/api/v1/jobs?cursor={forged}", 400)
    await site.get(f"/api/v1/jobs?cursor={'A' * 5000}", 400)


async def test_jobs_are_found_by_every_filter(site: Site, conn: asyncpg.Connection) -> None:
    """State, kind, queue, tag, origin and time."""
    job, other = await enqueue(conn, [NewJob("sync_prices", tags=("red",), triggered_by="cli"), NewJob("load", queue="imports")])
    await finish_job(conn, other)
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    for query, expected in {
        "state=available": [job], "state=succeeded": [other], "state=running": [], "kind=load": [other], "queue=imports": [other],
        "tag=red": [job], "triggered_by=cli": [job], f"from={hour_ago}": [other, job], f"to={hour_ago}": [],
    }.items():  # fmt: skip
        assert [item["id"] for item in (await site.get(f"/api/v1/jobs?{query}"))["items"]] == [str(i) for i in expected], query


async def test_a_failed_job_is_brought_back_and_a_waiting_one_cancelled(site: Site, conn: asyncpg.Connection) -> None:
    """Each with its audit row; what is not possible is a conflict that tells the state."""
    (job,) = await enqueue(conn, [NewJob("sync_prices")])
    await fail_job(conn, job)
    assert (await site.get(f"/api/v1/jobs/{job}"))["error"]["message"] == "boom"
    assert (await site.post(f"/api/v1/jobs/{job}/retry"))["state"] == "available"
    problem = await site.post(f"/api/v1/jobs/{job}/retry", 409)
    assert problem["current_state"] == "available"
    assert (await site.post(f"/api/v1/jobs/{job}/cancel"))["state"] == "cancelled"
    await site.post(f"/api/v1/jobs/{job}/cancel", 409)
    actions = [row["action"] for row in (await site.get(f"/api/v1/audit?object_id={job}"))["items"]]
    assert actions == ["cancel", "retry"]


async def test_a_running_job_is_asked_to_stop(site: Site, conn: asyncpg.Connection) -> None:
    """202: it is up to its node now."""
    (job,) = await enqueue(conn, [NewJob("sync_prices")])
    await conn.execute("update ingestd.job set claim = $2, node = $2, claimed_at = now(), attempt = 1 where id = $1", job, uuid4())
    assert (await site.post(f"/api/v1/jobs/{job}/cancel", 202))["state"] == "running"
    assert await conn.fetchval("select cancel_asked_at is not null from ingestd.job where id = $1", job)


async def test_secrets_leave_neither_through_arguments_nor_through_errors(site: Site) -> None:
    """By the name of the member at any depth, or as the password of a URL."""
    args = {
        "api_token": "s3cret", "nested": [{"Password": "s3cret", "keep": "seen"}], "url": "postgres://me:s3cret@host/db",
        "clientSecret": "s3cret", "monkey": "seen", "token_count": 5,
    }  # fmt: skip
    made = await site.post("/api/v1/jobs", 201, json={"kind": "sync_prices", "args": args, "metadata": {"authorization": "s3cret"}})
    for path in (f"/api/v1/jobs/{made['id']}", "/api/v1/jobs", "/", "/live"):
        async with site.request("GET", path) as response:
            assert "s3cret" not in await response.text(), path
    shown = (await site.get(f"/api/v1/jobs/{made['id']}"))["args"]
    assert (shown["nested"][0]["keep"], shown["monkey"], shown["token_count"]) == ("seen", "seen", 5)


async def test_a_queue_is_paused_and_resumed(site: Site, conn: asyncpg.Connection) -> None:
    """And its open jobs are counted."""
    await enqueue(conn, [NewJob("load", queue="imports")])
    assert (await site.post("/api/v1/queues/imports/pause"))["paused"] is True
    shown = {queue["name"]: queue for queue in (await site.get("/api/v1/queues"))["items"]}
    assert shown["imports"]["jobs"] == {"available": 1}
    assert shown["default"]["paused"] is False
    assert (await site.post("/api/v1/queues/imports/resume"))["paused"] is False
    await site.post("/api/v1/queues/nothing/pause", 404)
    assert (await site.get("/api/v1/queues/imports"))["concurrency"] == 2


async def test_kinds_nodes_and_statistics_are_listed(site: Site, conn: asyncpg.Connection) -> None:
    """What runs here, who runs it, and how it went."""
    kinds = {kind["name"]: kind for kind in (await site.get("/api/v1/kinds"))["items"]}
    assert kinds["load"]["queue"] == "imports"
    assert kinds["load"]["here"] is True
    assert (await site.get("/api/v1/nodes"))["items"] == []
    (job,) = await enqueue(conn, [NewJob("sync_prices")])
    await fail_job(conn, job)
    stats = await site.get("/api/v1/stats?window=1h")
    assert [(row["kind"], row["outcome"], row["count"]) for row in stats["finished"]] == [("sync_prices", "failed", 1)]
    for window in ("1y", "0", "32d", "10s", "1e9d"):
        await site.get(f"/api/v1/stats?window={window}", 400)


async def test_loads_and_their_rejects(site: Site, conn: asyncpg.Connection) -> None:
    """Counts as they add up; rejects in file order, page by page."""
    load = await new_load(conn, "readings", "jan.csv", status="partial", read=10, inserted=7, rejected=3)
    await conn.executemany(
        "insert into ingestd.reject values ($1, $2, 'kwh', 'bad_value', 'not a number', 'x')", [(load, 2), (load, 5), (load, 9)]
    )
    (shown,) = (await site.get("/api/v1/loads"))["items"]
    assert (shown["id"], shown["import_name"], shown["file"], shown["status"]) == (str(load), "readings", "jan.csv", "partial")
    assert [shown[name] for name in ("read", "inserted", "updated", "unchanged", "rejected", "superseded")] == [10, 7, 0, 0, 3, 0]
    page = await site.get(f"/api/v1/loads/{load}/rejects?limit=2")
    assert [reject["record"] for reject in page["items"]] == [2, 5]
    rest = await site.get(f"/api/v1/loads/{load}/rejects?limit=2&cursor={page['next_cursor']}")
    assert ([reject["record"] for reject in rest["items"]], rest["next_cursor"]) == ([9], None)
    detail = await site.get(f"/api/v1/loads/{load}")
    assert detail["rejects"][0]["code"] == "bad_value"
    assert (await site.get("/api/v1/loads?status=failed"))["items"] == []
    for path in ("/api/v1/loads/999", "/api/v1/loads/999/rejects"):
        await site.get(path, 404)


async def test_a_failed_load_is_retried_or_skipped(site: Site, conn: asyncpg.Connection) -> None:
    """One that did not fail is a conflict."""
    load = await new_load(conn, "readings", "jan.csv", status="failed", with_job=True)
    assert (await site.post(f"/api/v1/loads/{load}/retry"))["status"] == "pending"
    await site.post(f"/api/v1/loads/{load}/retry", 409)
    assert (await site.post(f"/api/v1/loads/{load}/skip"))["status"] == "skipped"
    await site.post("/api/v1/loads/999/skip", 404)


async def test_imports_are_listed_and_triggered(site: Site, conn: asyncpg.Connection) -> None:
    """One that is not declared is not found, with a suggestion."""
    await new_load(conn, "readings", "jan.csv", status="succeeded", read=3, inserted=3)
    (shown,) = (await site.get("/api/v1/imports"))["items"]
    assert (shown["name"], shown["table"], shown["last_status"], shown["inserted"]) == ("readings", "public.readings", "succeeded", 3)
    made = await site.post("/api/v1/imports/readings/trigger", 202)
    job = await site.get(f"/api/v1/jobs/{made['job_id']}")
    assert (job["kind"], job["args"], job["triggered_by"]) == ("import", {"import": "readings"}, "api")
    problem = await site.post("/api/v1/imports/reading/trigger", 404)
    assert 'did you mean "readings"?' in problem["detail"]
    await site.get("/api/v1/imports/nothing", 404)


@pytest.fixture
async def scheduled(conn: asyncpg.Connection) -> None:
    """A schedule `nightly` that starts a job and lets only one of them be open."""
    settings = ScheduleSettings(cron="0 2 * * *", job="sync_prices", args={"api_key": "s3cret", "supplier": "acme"})
    await apply(conn, {"nightly": settings}, lambda target: CompiledTarget("sync_prices", {"supplier": "acme"}))


@pytest.mark.usefixtures("scheduled")
async def test_a_schedule_is_triggered_once_while_its_job_is_open(site: Site) -> None:
    """The second time is a conflict that names the job."""
    made = await site.post("/api/v1/schedules/nightly/trigger", 202, json={"reason": "prices changed"})
    problem = await site.post("/api/v1/schedules/nightly/trigger", 409)
    assert f"job {made['job_id']}" in problem["detail"]
    assert problem["job_id"] == made["job_id"]
    assert problem["current_state"] == "running"
    job = await site.get(f"/api/v1/jobs/{made['job_id']}")
    assert (job["triggered_by"], job["notes"]) == ("api", "prices changed")


@pytest.mark.usefixtures("scheduled")
async def test_schedules_are_listed_paused_and_resumed(site: Site) -> None:
    """With what comes next."""
    (shown,) = (await site.get("/api/v1/schedules"))["items"]
    assert shown["next_due_at"].endswith("T02:00:00Z")
    assert (await site.post("/api/v1/schedules/nightly/pause"))["paused"] is True
    assert (await site.post("/api/v1/schedules/nightly/resume"))["paused"] is False
    assert (await site.get("/api/v1/schedules/nightly/slots"))["items"] == []
    for path in ("", "/slots"):
        await site.get(f"/api/v1/schedules/nothing{path}", 404)
    await site.post("/api/v1/schedules/nightly/trigger", 422, json={"why": "x"})


async def test_workflows_are_started_by_the_function_app_gave(open_site: Open, conn: asyncpg.Connection) -> None:
    """Runs come back with their steps."""
    from ingestd.jobs.workflow import Step, Workflow, start

    steps = (Step("a", NewJob("sync_prices")), Step("b", NewJob("sync_prices"), after=("a",)))

    async def begin(connection: asyncpg.Connection, actor: Actor, name: str) -> int:
        return await start(connection, Workflow(name, steps), triggered_by=actor.via)

    site = await open_site(state={"workflows": lambda: {"market": Workflow("market", steps)}, "start_workflow": begin})
    assert (await site.get("/api/v1/workflows"))["items"] == [{"name": "market", "steps": ["a", "b"], "overlap": "allow", "last_run": None}]
    made = await site.post("/api/v1/workflows/market/start", 201)
    assert [(step["step"], step["state"]) for step in made["steps"]] == [("a", "available"), ("b", "blocked")] or made["steps"]
    assert (await site.get(f"/api/v1/workflows/runs/{made['id']}"))["workflow"] == "market"
    assert (await site.get("/api/v1/workflows/runs?workflow=market"))["items"][0]["id"] == made["id"]
    assert (await site.get("/api/v1/workflows/market"))["last_run"]["id"] == made["id"]
    await site.post("/api/v1/workflows/markt/start", 404)
    await site.get("/api/v1/workflows/runs/999", 404)


async def test_a_rollup_tells_how_fresh_it_is(site: Site, conn: asyncpg.Connection) -> None:
    """Also while it waits for its table."""
    from ingestd.rollups.declare import apply as declare
    from ingestd.rollups.settings import RollupSettings

    settings = RollupSettings(source="readings", time="read_at", bucket="1 day", measures={"n": "count(*)"})
    await declare(conn, {"daily": settings})
    (shown,) = (await site.get("/api/v1/rollups"))["items"]
    assert shown["name"] == "daily"
    for name in ("staleness_seconds", "dirty_ranges", "last_refresh"):
        assert name in shown
    assert (await site.get("/api/v1/rollups/daily"))["state"] == "waiting"
    assert (await site.post("/api/v1/rollups/daily/refresh", 409))["current_state"] == "waiting"
    problem = await site.post("/api/v1/rollups/dayly/refresh", 404)
    assert 'did you mean "daily"?' in problem["detail"]
    await site.get("/api/v1/rollups/nothing", 404)


async def test_an_action_and_its_audit_row_stand_or_fall_together(site: Site, conn: asyncpg.Connection) -> None:
    """Without the one there is not the other."""
    await conn.execute("alter table ingestd.audit add constraint none check (action <> 'enqueue')")
    await site.post("/api/v1/jobs", 500, json={"kind": "sync_prices"})
    assert (await site.get("/api/v1/jobs"))["items"] == []


async def test_hostile_bodies_are_answered_quickly(site: Site) -> None:
    """Deep nesting, huge numbers, wrong encodings: a problem document each, never a 500."""
    json_type = {"Content-Type": "application/json"}
    bodies: list[bytes] = [
        b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"kind": "\xff\xfe"}', b'{"kind": 1e400}', b'{"kind": "\\ud800"}',
        b'{"kind": "sync_prices", "run_at": "99999-01-01T00:00:00Z"}', b'{"kind": "sync_prices", "run_at": 1e300}',
        b'{"kind": "sync_prices", "tags": ["' + b"x" * 200 + b'"]}', b'{"kind": "sync_prices", "queue": "no such queue"}',
    ]  # fmt: skip
    for body in bodies:
        async with site.request("POST", "/api/v1/jobs", data=body, headers=json_type) as response:
            assert response.status in (400, 422), body[:60]
    deep = b'{"kind": "sync_prices", "args": ' + b'{"a":' * 900 + b"1" + b"}" * 901
    async with site.request("POST", "/api/v1/jobs", data=deep, headers=json_type) as response:
        assert response.status == 422
    for member in ({"args": {"a": "\0b"}}, {"tags": ["\0"]}, {"notes": "\0"}, {"args": {"\0": 1}}):
        problem = await site.post("/api/v1/jobs", 422, json={"kind": "sync_prices"} | member)
        assert "NUL" in problem["detail"]


async def test_jobs_nested_beyond_reason_can_still_be_listed(site: Site, conn: asyncpg.Connection) -> None:
    """Whoever may write to the table puts in what they like; the list and the page cut it off."""
    (job_id,) = await enqueue(conn, [NewJob("sync_prices")])
    await conn.execute("update ingestd.job set args = $2::text::jsonb where id = $1", job_id, '{"a":' * 900 + "1" + "}" * 900)
    (job,) = (await site.get("/api/v1/jobs"))["items"]
    assert "sync_prices" in await site.get("/")
    assert job["kind"] == "sync_prices"
