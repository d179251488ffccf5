"""Workflows on the page: what a run is at, and buttons for what can be done with it."""

from __future__ import annotations

from typing import Any

import asyncpg

from ingestd.access.roles import Actor
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.run_actions import start_run
from ingestd.jobs.workflow import Step, Workflow, order_steps
from tests.admin.conftest import Open, Site
from tests.jobs.kit import end
from tests.support import eventually

STEPS = (Step("pay", NewJob("pay"), undo=NewJob("refund")), Step("send", NewJob("send"), ("pay",), "compensate"))
ORDER = Workflow("order", order_steps("order", STEPS))


async def open_order(open_site: Open) -> Site:
    async def begin(conn: asyncpg.Connection, actor: Actor, _name: str) -> int:
        return await start_run(conn, actor, ORDER)

    return await open_site(state={"workflows": lambda: {"order": ORDER}, "start_workflow": begin})


async def finish(conn: asyncpg.Connection, kind: str, state: State = State.SUCCEEDED) -> None:
    await promote_once(conn)
    await end(conn, await conn.fetchval("select id from ingestd.job where kind = $1", kind), state)
    await conn.execute("update ingestd.job set claim = null, node = null where claim is not null")
    await promote_once(conn)


async def press(site: Site, path: str) -> Any:
    async with site.request("POST", path, headers={"HX-Request": "true", "Sec-Fetch-Site": "same-origin"}) as response:
        return response.status, response.headers.get("X-Ingestd-Message")


async def test_a_run_is_started_cancelled_and_retried_from_the_page(open_site: Open, conn: asyncpg.Connection) -> None:
    site = await open_order(open_site)
    assert (await press(site, "/workflows/order/start"))[0] == 200
    run = await conn.fetchval("select id from ingestd.workflow_run")
    page = await site.get("/")
    assert f'action="/workflows/runs/{run}/cancel' in page
    assert f'action="/workflows/runs/{run}/retry' not in page
    assert await press(site, f"/workflows/runs/{run}/cancel") == (200, f"Run {run} is being cancelled.")
    await promote_once(conn)
    assert (await press(site, f"/workflows/runs/{run}/cancel"))[0] == 409

    async def can_be_retried() -> bool:
        return f'action="/workflows/runs/{run}/retry' in await site.get("/live")

    await eventually(can_be_retried)  # tabs share a reading for a second
    assert await press(site, f"/workflows/runs/{run}/retry") == (200, f"Run {run} goes on: pay, send.")
    assert (await press(site, "/workflows/runs/999/retry"))[0] == 404
    audit = (await site.get("/api/v1/audit"))["items"]
    assert [(row["action"], row["via"]) for row in audit] == [("retry", "page"), ("cancel", "page"), ("start", "page")]


async def test_what_was_not_taken_back_stands_on_the_page_and_behind_all_that_went_forward(
    open_site: Open, conn: asyncpg.Connection
) -> None:
    site = await open_order(open_site)
    run = (await site.post("/api/v1/workflows/order/start", 201))["id"]
    await finish(conn, "pay")
    await finish(conn, "send", State.FAILED)
    await finish(conn, "refund", State.FAILED)

    async def told() -> bool:
        return "not taken back: pay" in await site.get("/")

    await eventually(told)
    page = await site.get("/")
    assert page.index(">pay</li>") < page.index(">send</li>") < page.index(">pay.undo</li>")
    shown = await site.get(f"/api/v1/workflows/runs/{run}")
    assert (shown["state"], shown["not_undone"], shown["steps"][-1]["compensates"]) == ("failed", ["pay"], "pay")
    checks = {check["name"]: check for check in (await site.get("/health"))["checks"]}
    assert (checks["compensations"]["status"], checks["compensations"]["value"]) == ("degraded", f"run {run} of order: pay")


async def test_a_body_that_makes_no_sense_is_refused(open_site: Open) -> None:
    site = await open_order(open_site)
    for path, body in (("order/start", {"dryrun": True}), ("runs/1/retry", {"step": 3}), ("runs/1/cancel", {"undo": "perhaps"})):
        await site.post(f"/api/v1/workflows/{path}", 422, json=body)
    assert (await site.post("/api/v1/workflows/order/start", 200, json={"dry_run": True}))["starts"] == "now"
    assert (await site.get("/api/v1/workflows/runs"))["items"] == []
    await site.get("/api/v1/workflows/ordr/plan", 404)
