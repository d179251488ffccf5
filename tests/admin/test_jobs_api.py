"""Jobs over HTTP: filters, edits, and one thing done to all that match."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from tests.admin.conftest import Site
from tests.admin.rows import fail_job, finish_job, take


async def call(site: Site, method: str, path: str, status: int, **how: Any) -> Any:
    async with site.request(method, path, **how) as response:
        body = await response.json(content_type=None)
        assert response.status == status, body
        return body


async def one(conn: asyncpg.Connection, **options: Any) -> int:
    (number,) = await enqueue(conn, [NewJob("sync_prices", **options)])
    return number


async def test_lists_take_every_filter_and_a_cursor_bound_to_them(site: Site, conn: asyncpg.Connection) -> None:
    parent = await one(conn, tags=("a",), correlation_id="req-1")
    child = await one(conn, parent_id=parent, queue="alerts", triggered_by="cli")
    await fail_job(conn, child)

    async def found(query: str) -> list[str]:
        return [job["id"] for job in (await site.get(f"/api/v1/jobs?{query}"))["items"]]

    moment = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+", "%2B")
    for query, expected in {
        "tag=a": [parent], "correlation_id=req-1": [parent], f"parent={parent}": [child], "state=failed,running": [child],
        "state=waiting": [parent], "state=final": [child], "error_class=ValueError": [child], f"id={parent},{child}": [child, parent],
        "triggered_by=cli": [child], "workflow=none": [], "run=5": [], f"finished_to={moment}": [child], f"from={moment}": [],
        f"finished_from={moment}": [], "queue=alerts&kind=sync_prices": [child],
    }.items():  # fmt: skip
        assert await found(query) == [str(number) for number in expected], query
    page = await site.get("/api/v1/jobs?kind=sync_prices&limit=1")
    assert [job["id"] for job in page["items"]] == [str(child)]
    assert await found(f"kind=sync_prices&limit=1&cursor={page['next_cursor']}") == [str(parent)]
    await site.get(f"/api/v1/jobs?kind=load&cursor={page['next_cursor']}", 400)
    for query in ("state=x", "run=abc", "id=1,x", "finished_from=soon", "nonsense=1"):
        await site.get(f"/api/v1/jobs?{query}", 400)


async def test_a_job_is_edited_and_says_what_is_wrong(site: Site, conn: asyncpg.Connection) -> None:
    number = await one(conn, timeout=timedelta(minutes=5))
    path = f"/api/v1/jobs/{number}"
    job = await call(site, "PATCH", path, 200, json={"priority": "high", "tags": ["x"], "timeout": None, "hard_timeout": "1h", "args": {}})
    assert (job["priority"], job["tags"], job["timeout"], job["hard_timeout"]) == ("high", ["x"], None, "1h")
    for body, pointer in (
        ({"priority": 1000}, "/priority"), ({"kind": "x"}, "/kind"), ({"queue": "nowhere"}, "/queue"), ({"args": None}, "/args"),
        ({"run_at": "2027-01-01T00:00:00"}, "/run_at"), ({"timeout": "soon"}, "/timeout"), ({}, "/"),
    ):  # fmt: skip
        problem = await call(site, "PATCH", path, 422, json=body)
        assert pointer in str(problem), problem
    await take(conn, number)
    problem = await call(site, "PATCH", path, 409, json={"notes": "x"})
    assert (problem["current_state"], problem["title"]) == ("running", "Conflict")
    await call(site, "PATCH", "/api/v1/jobs/4711", 404, json={"notes": "x"})


async def test_snooze_retry_again_and_delete(site: Site, conn: asyncpg.Connection) -> None:
    number = await one(conn)
    path = f"/api/v1/jobs/{number}"
    assert (await site.post(f"{path}/snooze", json={"in": "2h"}))["state"] == "scheduled"
    await site.post(f"{path}/snooze", 422, json={})
    await site.post(f"{path}/snooze", 422, json={"in": "2h", "run_at": "2027-01-01T00:00:00Z"})
    await site.post(f"{path}/again", 409)
    await site.post(f"{path}/cancel")
    assert (await site.post(f"{path}/retry", json={"run_at": "2100-01-01T00:00:00Z"}))["run_at"].startswith("2100-01-01T00:00:00")
    await conn.execute("update ingestd.job set run_at = now()")
    await finish_job(conn, number)
    again = await site.post(f"{path}/again", 201)
    assert (again["parent_id"], again["state"], again["triggered_by"]) == (str(number), "available", "api")
    assert [child["id"] for child in (await site.get(path))["children"]] == [again["id"]]
    assert await call(site, "DELETE", path, 200) == {"id": str(number), "deleted": True, "was": "succeeded"}
    await site.get(path, 404)
    await call(site, "DELETE", path, 404)
    running = int(again["id"])
    await take(conn, running)
    await call(site, "DELETE", f"/api/v1/jobs/{running}", 409)
    assert (await site.post(f"/api/v1/jobs/{running}/cancel", 202))["reason"] == "asked to stop"
    assert (await site.post(f"/api/v1/jobs/{running}/cancel", json={"force": True}))["state"] == "cancelled"


async def test_a_bulk_is_previewed_and_done_at_once_or_as_a_job(site: Site, conn: asyncpg.Connection) -> None:
    for _ in range(3):
        await fail_job(conn, await one(conn))
    asked = {"action": "retry", "filter": {"kind": "sync_prices", "state": ["failed"]}}
    seen = await site.post("/api/v1/bulk", json=asked | {"preview": True})
    assert (seen["jobs"], seen["states"], seen["kinds"], len(seen["sample"]), seen["at_once"]) == (
        3, {"failed": 3}, {"sync_prices": 3}, 3, True,
    )  # fmt: skip
    assert await site.post("/api/v1/bulk", json=asked | {"expected": 3}) == {"action": "retry", "jobs": 3, "changed": 3, "skipped": 0}
    ids = await enqueue(conn, [NewJob("load") for _ in range(501)])
    body = {"action": "snooze", "filter": {"id": ids[:2] + [str(number) for number in ids[2:]]}, "in": "1h"}
    async with site.request("POST", "/api/v1/bulk", json=body) as response:
        started = await response.json()
        assert (response.status, response.headers["Location"]) == (202, f"/api/v1/jobs/{started['id']}")
    job = await site.get(f"/api/v1/jobs/{started['id']}")
    assert (job["kind"], job["queue"], job["tags"], len(job["args"]["filter"]["ids"])) == ("bulk", "maintenance", ["snooze"], 501)
    changes = {"action": "edit", "filter": {"state": "waiting", "kind": "load"}, "changes": {"priority": "low"}, "preview": True}
    assert (await site.post("/api/v1/bulk", json=changes))["jobs"] == 501


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"action": "cancel"}, "filter"),
        ({"action": "cancel", "filter": {}}, "the filter is empty"),
        ({"action": "stop", "filter": {"kind": "x"}}, "is not an action"),
        ({"action": "cancel", "filter": {"knd": "x"}}, 'unknown member \\"knd\\"'),
        ({"action": "cancel", "filter": {"state": "faild"}}, 'did you mean \\"failed\\"'),
        ({"action": "cancel", "filter": {"triggered_by": "scheduler"}}, 'did you mean \\"schedule\\"'),
        ({"action": "cancel", "filter": {"id": ["x"]}}, "is not an id"),
        ({"action": "edit", "filter": {"kind": "x"}, "changes": {"prio": 1}}, "prio"),
        ({"action": "snooze", "filter": {"kind": "x"}}, "until when"),
        ({"action": "snooze", "filter": {"kind": "x"}, "in": "a while"}, "is not a duration"),
    ],
)
async def test_a_bulk_that_makes_no_sense_is_a_clear_error(site: Site, body: dict[str, Any], words: str) -> None:
    async with site.request("POST", "/api/v1/bulk", json=body) as response:
        assert response.status == 422
        assert words in await response.text()
