"""The pages of jobs: what they show, what their forms do, and what they refuse; all without JavaScript."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from tests.admin.conftest import Site
from tests.admin.rows import fail_job, finish_job, take
from tests.admin.test_page import Reader, read

OURS = {"Sec-Fetch-Site": "same-origin", "Accept": "text/html"}


async def send(site: Site, path: str, status: int = 303, **fields: str) -> str:
    """Send a form; where it leads, or the page that refuses it."""
    async with site.request("POST", path, data=fields, headers=OURS) as response:
        text = await response.text()
        assert response.status == status, Reader(text).text
        return response.headers["Location"] if status == 303 else Reader(text).text


async def job_of(site: Site, number: int) -> Any:
    return await site.get(f"/api/v1/jobs/{number}")


async def test_the_list_is_filtered_paged_and_leads_to_each_job(site: Site, conn: asyncpg.Connection) -> None:
    numbers = await enqueue(conn, [NewJob("sync_prices", {"n": n}, tags=("a",)) for n in range(60)])
    other = (await enqueue(conn, [NewJob("load")]))[0]
    page = await read(site, "/jobs?tag=a")
    links = [link["href"] for link in page.all("a")]
    assert f"/jobs/{numbers[-1]}" in links
    assert f"/jobs/{other}" not in links
    (older,) = [link["href"] for link in page.all("a") if link.get("rel") == "next"]
    second = await read(site, str(older))
    assert f"/jobs/{numbers[0]}" in [link["href"] for link in second.all("a")]
    assert "Newest" in second.text
    assert "Nothing matches this filter." in (await read(site, "/jobs?kind=nothing")).text
    assert '"state" cannot be "runing", did you mean "running"?' in (await read_problem(site, "/jobs?state=runing", 400)).text
    assert '"from" must be a moment' in (await read_problem(site, "/jobs?from=yesterday", 400)).text


async def read_problem(site: Site, path: str, status: int) -> Reader:
    return Reader(await site.get(path, status, headers={"Accept": "text/html"}))


async def test_buttons_for_all_that_match_are_those_that_could_do_something(site: Site, conn: asyncpg.Connection) -> None:
    number, waiting = await enqueue(conn, [NewJob("sync_prices"), NewJob("load")])
    await fail_job(conn, number)
    assert "Filter the list to" in (await read(site, "/jobs")).text
    shown = {button["value"] for button in (await read(site, "/jobs?state=failed")).all("button") if button.get("name") == "action"}
    assert shown == {"retry", "again", "delete"}
    shown = {button["value"] for button in (await read(site, "/jobs?kind=load")).all("button") if button.get("name") == "action"}
    assert shown == {"retry", "cancel", "again", "snooze", "edit", "delete"}
    assert waiting


async def test_a_bulk_is_looked_at_confirmed_and_told(site: Site, conn: asyncpg.Connection) -> None:
    numbers = await enqueue(conn, [NewJob("sync_prices") for _ in range(3)])
    for number in numbers:
        await fail_job(conn, number)
    page = await read(site, "/jobs/bulk?action=retry&kind=sync_prices&state=failed")
    assert "Retry 3 jobs?" in page.text
    assert (await job_of(site, numbers[0]))["state"] == "failed"
    fields = {str(field["name"]): str(field["value"]) for field in page.all("input") if field["type"] == "hidden"}
    assert fields == {"action": "retry", "expected": "3", "kind": "sync_prices", "state": "failed"}
    told = await send(site, "/jobs/bulk", **fields)
    assert told == "/jobs?did=retry&changed=3&skipped=0"
    assert "Retry: 3 jobs" in (await read(site, told)).text
    assert (await job_of(site, numbers[0]))["state"] == "available"
    (row,) = (await site.get("/api/v1/audit?object_type=bulk"))["items"]
    assert (row["action"], row["via"], row["detail"]["changed"]) == ("retry", "page", 3)
    assert "No job matches" in (await read(site, "/jobs/bulk?action=retry&kind=sync_prices")).text


async def test_a_large_bulk_becomes_a_job_and_its_page_is_shown(site: Site, conn: asyncpg.Connection) -> None:
    await enqueue(conn, [NewJob("sync_prices") for _ in range(501)])
    assert "A job goes through them" in (await read(site, "/jobs/bulk?action=edit&kind=sync_prices")).text
    where = await send(site, "/jobs/bulk", action="edit", kind="sync_prices", priority="high", new_queue="alerts", notes="", expected="501")
    job = await site.get(f"/api/v1{where}")
    assert (job["kind"], job["args"]["changes"]) == ("bulk", {"priority": 10, "queue": "alerts"})
    assert "bulk" in (await read(site, where)).text


async def test_more_than_was_shown_is_refused(site: Site, conn: asyncpg.Connection) -> None:
    await enqueue(conn, [NewJob("sync_prices") for _ in range(30)])
    assert "look again" in await send(site, "/jobs/bulk", 409, action="cancel", kind="sync_prices", expected="2")
    assert "the filter is empty" in await send(site, "/jobs/bulk", 422, action="delete", expected="30")


async def test_a_job_s_page_has_everything_and_masks_secrets(site: Site, conn: asyncpg.Connection) -> None:
    parent, number = await enqueue(conn, [NewJob("load"), NewJob("sync_prices", {"password": "hunter2", "shop": "acme"}, notes="hm")])
    await enqueue(conn, [NewJob("load", parent_id=number, tags=("a",))])
    await fail_job(conn, number, "prices.example.com answered 503")
    page = await read(site, f"/jobs/{number}")
    for words in (
        "sync_prices",
        "acme",
        "prices.example.com answered 503",
        "Traceback …",
        "hm",
        "Children",
        "correlation" if False else "Queue",
    ):
        assert words in page.text, words
    assert "hunter2" not in page.text
    assert parent
    assert "there is no job 424242" in (await read_problem(site, "/jobs/424242", 404)).text


async def test_forms_of_a_job_s_page_do_what_they_say(site: Site, conn: asyncpg.Connection) -> None:
    (number,) = await enqueue(conn, [NewJob("sync_prices", {"n": 1, "token": "x"})])
    here = f"/jobs/{number}"
    assert await send(site, here, action="snooze", **{"in": "2h"}) == here
    assert (await job_of(site, number))["state"] == "scheduled"
    page = await read(site, here)
    fields = {str(field["name"]): str(field["value"]) for field in page.all("input") if str(field["name"]).startswith("was_")}
    untouched = {name.removeprefix("was_"): value for name, value in fields.items()} | fields
    await send(site, here, action="edit", **untouched)
    assert [row["action"] for row in (await site.get("/api/v1/audit"))["items"]] == ["snooze"], "nothing was changed"
    await send(site, here, action="edit", **untouched | {"priority": "high", "tags": "b, c", "timeout": "90s", "notes": "new"})
    job = await job_of(site, number)
    assert (job["priority"], job["tags"], job["timeout"], job["notes"]) == ("high", ["b", "c"], "1m30s", "new")
    assert job["state"] == "scheduled", "its moment was not touched"
    masked = '{"n": 2, "token": "••••••"}'
    assert "a secret that is not shown" in await send(site, here, 422, action="edit", args=masked, was_args="")
    assert "args" in await send(site, here, 422, action="edit", args="{no", was_args="")
    await send(site, here, action="cancel")
    assert (await job_of(site, number))["state"] == "cancelled"
    await send(site, here, action="retry", **{"in": "1h"})
    assert (await job_of(site, number))["state"] == "scheduled"
    await conn.execute("update ingestd.job set run_at = now()")
    await finish_job(conn, number)
    made = await send(site, here, action="again")
    assert (await site.get(f"/api/v1{made}"))["parent_id"] == str(number)
    assert await send(site, here, action="delete") == "/jobs"
    assert "there is no job" in (await read_problem(site, here, 404)).text
    assert '"explode" is not an action' in await send(site, made, 422, action="explode")


async def test_a_running_job_is_asked_to_stop_or_ended_by_force(site: Site, conn: asyncpg.Connection) -> None:
    (number,) = await enqueue(conn, [NewJob("sync_prices")])
    await take(conn, number)
    await send(site, f"/jobs/{number}", action="cancel")
    assert "asked to stop" in (await read(site, f"/jobs/{number}")).text
    await send(site, f"/jobs/{number}", action="cancel", force="on")
    assert (await job_of(site, number))["state"] == "cancelled"


async def test_dead_letters_are_grouped_with_a_way_to_retry_and_discard(site: Site, conn: asyncpg.Connection) -> None:
    numbers = await enqueue(conn, [NewJob("sync_prices") for _ in range(3)])
    for number in numbers:
        await fail_job(conn, number, f"item {number} has no price")
    page = await read(site, "/jobs/dead")
    assert "item # has no price" in page.text
    (group,) = (await site.get("/api/v1/jobs/dead"))["items"]
    assert (group["jobs"], group["error_class"], group["sample"]) == (3, "ValueError", str(numbers[-1]))
    hidden = {str(field["name"]): str(field["value"]) for field in page.all("input")}
    assert hidden == {"error_group": group["error_group"], "state": "failed"}
    await send(site, "/jobs/bulk", action="delete", expected="3", **hidden)
    assert "No job has failed for good." in (await read(site, "/jobs/dead")).text


async def test_another_site_may_not_act_and_a_viewer_sees_no_buttons(site: Site, guarded: Site, conn: asyncpg.Connection) -> None:
    (number,) = await enqueue(conn, [NewJob("sync_prices")])
    for path in (f"/jobs/{number}", "/jobs/bulk"):
        cross = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
        async with site.request("POST", path, data={"action": "cancel", "kind": "sync_prices"}, headers=cross) as response:
            assert response.status == 403
        async with guarded.request("POST", path, data={"action": "cancel", "kind": "sync_prices"}, headers=OURS) as response:
            assert response.status == 401
        async with site.request("POST", path, json={"action": "cancel", "kind": "sync_prices"}) as response:
            assert response.status == 400
    for path in ("/jobs", f"/jobs/{number}", "/jobs/dead", "/jobs?kind=sync_prices", "/jobs/bulk?action=cancel&kind=sync_prices"):
        assert {form["method"] for form in (await read(guarded, path)).all("form")} <= {"get"}, path
    assert (await job_of(site, number))["state"] == "available"


@pytest.mark.parametrize("query", ["?did=<b>&changed=1", "?did=retry&changed=x", "?did=retry&changed=-1"])
async def test_what_was_done_is_never_told_in_a_stranger_s_words(site: Site, query: str) -> None:
    async with site.request("GET", f"/jobs{query}") as response:
        text = await response.text()
    assert 'class="said"' not in text
