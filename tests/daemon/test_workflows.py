"""Workflows on a real daemon: results handed on, what was done taken back, one run at a time, all of it over HTTP."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon.harness import Daemon, Site, open_site
from tests.support import eventually

HANDLERS = """
import asyncio
from pathlib import Path

from ingestd import Context, job
from ingestd.jobs.backoff import Backoff

SOON = Backoff(base_s=0.05, jitter=0)

@job("reserve")
async def reserve(ctx: Context, order: int) -> dict:
    return {"slot": {"number": order * 10}}

@job("charge")
def charge(ctx, order: int, slot: int) -> dict:
    return {"payment": f"p{order}-{slot}", "before": ctx.parent_results()}

@job("send", max_attempts=2, backoff=SOON)
async def send(ctx: Context) -> None:
    if not Path("open").exists():
        raise RuntimeError("closed")

@job("refund", max_attempts=2, backoff=SOON)
async def refund(ctx: Context, payment: str) -> dict:
    if not Path("bank").exists():
        raise RuntimeError("no bank")
    return {"refunded": payment}

@job("unreserve")
async def unreserve(ctx: Context, order: int) -> dict:
    return {"order": order, "of": await ctx.parent_results()}

@job("until_there")
async def until_there(ctx: Context) -> None:
    while not Path("there").exists():
        await asyncio.sleep(0.02)
"""
CONFIGURATION = """
[workflows.order]
on_failure = "compensate"
[workflows.order.steps]
reserve = { job = "reserve", args = { order = 7 }, undo = { job = "unreserve" } }
send = { job = "send", after = ["charge"] }
[workflows.order.steps.charge]
job = "charge"
after = ["reserve"]
args = { order = 7, slot = { from = "reserve", path = "slot.number" } }
undo = { job = "refund", args = { payment = { from = "charge", path = "payment" } } }
[workflows.alone]
overlap = "skip"
[workflows.alone.steps]
wait = { job = "until_there" }
[schedules.often]
every = "1s"
workflow = "alone"
enabled = false
overlap = "allow"
"""
RUNS = "/api/v1/workflows/runs"


@pytest.fixture
def site(dsn: str) -> Iterator[Site]:
    with open_site(dsn) as opened:
        opened.module("orders", HANDLERS)
        opened.configure(CONFIGURATION, daemon='handlers = ["orders"]')
        yield opened


async def ended(daemon: Daemon, run: str) -> dict[str, Any]:
    async def look() -> Any:
        _, found = await daemon.get(f"{RUNS}/{run}")
        return found if found["finished_at"] else None

    found: dict[str, Any] = await eventually(look, saying=f"run {run} ended")
    return found


def steps(run: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    return {step["step"]: (step["state"], step["result"]) for step in run["steps"]}


async def test_an_order_is_taken_back_and_then_goes_through(site: Site) -> None:
    daemon = await site.start()
    status, planned = await daemon.post("/api/v1/workflows/order/start", {"dry_run": True})
    assert (status, planned["starts"], len(planned["layers"])) == (200, "now", 3)
    status, started = await daemon.post("/api/v1/workflows/order/start")
    assert status == 201
    run = started["id"]

    first = await ended(daemon, run)
    assert (first["state"], first["not_undone"]) == ("failed", ["charge", "reserve"])
    assert steps(first)["charge"] == ("succeeded", {"payment": "p7-70", "before": {"reserve": {"slot": {"number": 70}}}})
    assert {name: state for name, (state, _) in steps(first).items()} == {
        "reserve": "succeeded", "charge": "succeeded", "send": "failed", "charge.undo": "failed", "reserve.undo": "skipped",
    }  # fmt: skip
    assert (await daemon.check("compensations"))["status"] == "degraded"

    (site.folder / "bank").touch()
    status, again = await daemon.post(f"{RUNS}/{run}/retry")
    assert (status, again["state"]) == (200, "compensating")
    second = await ended(daemon, run)
    assert (second["state"], second["not_undone"]) == ("failed", [])
    assert steps(second)["charge.undo"] == ("succeeded", {"refunded": "p7-70"})
    assert steps(second)["reserve.undo"] == ("succeeded", {"order": 7, "of": {"reserve": {"slot": {"number": 70}}}})

    (site.folder / "open").touch()
    status, again = await daemon.post(f"{RUNS}/{run}/retry")
    assert (status, again["state"]) == (200, "running")
    third = await ended(daemon, run)
    assert {name: state for name, (state, _) in steps(third).items()} == dict.fromkeys(("reserve", "charge", "send"), "succeeded")
    assert third["state"] == "succeeded"
    assert (await daemon.post(f"{RUNS}/{run}/retry"))[0] == 409
    assert (await daemon.post(f"{RUNS}/{run}/cancel"))[0] == 409
    assert (await daemon.post(f"{RUNS}/999/cancel"))[0] == 404


async def test_a_workflow_that_must_run_alone_is_refused_skipped_and_left_to_the_one_that_runs(site: Site) -> None:
    daemon = await site.start()
    _, started = await daemon.post("/api/v1/workflows/alone/start")
    status, problem = await daemon.post("/api/v1/workflows/alone/start")
    assert (status, problem["detail"]) == (409, f'workflow "alone" is still busy with run {started["id"]}')
    assert (await daemon.get("/api/v1/workflows/alone/plan"))[1]["busy_run"] == started["id"]

    # A schedule's job that was enqueued before: it has nothing to do, and nothing failed.
    _, job = await daemon.post("/api/v1/jobs", {"kind": "workflow", "args": {"workflow": "alone"}})
    assert await eventually(lambda: site.ask("select state from ingestd.history where id = $1", int(job["id"]))) == "skipped"

    # And its slots say why they were skipped.
    site.configure(CONFIGURATION.replace("enabled = false", ""), daemon='handlers = ["orders"]')
    daemon.signal(signal.SIGHUP)
    reason = await eventually(lambda: site.ask("select reason from ingestd.slot where state = 'skipped' limit 1"))
    assert reason == f"run {started['id']} of workflow alone was still open"

    status, _ = await daemon.post(f"{RUNS}/{started['id']}/cancel")
    assert status == 200
    assert (await ended(daemon, started["id"]))["state"] == "cancelled"


async def test_a_reload_with_an_undo_that_nobody_could_run_keeps_the_old_configuration(site: Site) -> None:
    daemon = await site.start()
    site.configure(CONFIGURATION.replace('undo = { job = "unreserve" }', 'undo = { job = "unreserved" }'), daemon='handlers = ["orders"]')
    daemon.signal(signal.SIGHUP)
    await eventually(lambda: daemon.events("ConfigurationRefused"))
    (told,) = daemon.events("ConfigurationRefused")
    assert 'did you mean "unreserve"?' in str(told)
