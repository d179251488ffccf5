"""Live nodes: what becomes of slots' jobs is seen, and a scheduler that is not there; and the outside hears of life."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.daemon.harness import Daemon, Site
from tests.daemon.test_reload import reloaded
from tests.support import eventually

SECRET = "5f0c-secret-check"
HOURLY = "[schedules.hourly]\nevery = '1h'\ncommand = 'health'\n"

SLOW = """
import asyncio
from ingestd import Context, job

@job("slow")
async def slow(ctx: Context) -> None:
    await asyncio.sleep(6)
"""


@asynccontextmanager
async def outside(calls: list[str]) -> AsyncIterator[str]:
    """A service that waits for calls; gives the URL to call."""

    async def answer(request: web.Request) -> web.Response:
        calls.append(request.path)
        return web.Response(text="OK")

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/{SECRET}"
    await runner.cleanup()


def heartbeat(url: str) -> str:
    """The section of the configuration."""
    return f"[heartbeat]\nurl = '{url}'\nevery = '10s'\n"


async def is_in(daemon: Daemon, check: str, status: str) -> bool:
    """Whether a health check has this status."""
    return str((await daemon.check(check))["status"]) == status


async def test_a_node_without_the_duty_sees_that_nobody_fires_slots_and_says_so_once(site: Site) -> None:
    site.configure(HOURLY)
    watcher = await site.start("--duties", "work,serve")
    await site.ask("update ingestd.schedule set next_due_at = now() - interval '10 minutes', turn = turn + 1 returning name")
    await eventually(lambda: is_in(watcher, "schedules", "critical"), every_s=0.5)
    assert "start a node with the duty" in (await watcher.check("schedules"))["hint"]
    scheduler = await site.start("--duties", "schedule")
    await eventually(lambda: is_in(watcher, "schedules", "healthy"), every_s=0.5)
    assert len(watcher.events("SlotsStopped")) == 1
    assert not scheduler.events("SlotsStopped")
    assert await scheduler.stop() == 0
    assert await watcher.stop() == 0


async def test_what_becomes_of_a_slots_job_reaches_its_row(site: Site) -> None:
    site.module("slow_jobs", SLOW)
    site.configure(
        "[schedules.slow]\nat = 2999-01-01T00:00:00Z\njob = 'slow'\nfinish_within = '3s'\ntarget_runtime = '2s'\n"
        "[schedules.quick]\nevery = '1s'\ncommand = 'health'\n",
        daemon="handlers = ['slow_jobs']",
    )
    daemon = await site.start()
    assert (await daemon.post("/api/v1/schedules/slow/trigger"))[0] == 202

    async def over() -> object:
        return await site.ask("select ended from ingestd.slot where schedule = 'slow'")

    await eventually(lambda: is_in(daemon, "schedules_overdue", "degraded"), every_s=0.2)
    assert await eventually(over) == "succeeded"
    (row,) = await site.rows(
        "select state, overdue, reason, slow_at is not null as slow, duration_ms from ingestd.slot where schedule = 'slow'"
    )
    assert (row["state"], row["overdue"], row["slow"]) == ("late", "finish", True)
    assert row["reason"].endswith("; not finished within 3s"), "who started it stays known"
    assert row["duration_ms"] >= 6000
    await eventually(lambda: is_in(daemon, "schedules_overdue", "healthy"), every_s=0.2)
    await eventually(lambda: daemon.events("SlotSlow"))
    assert [len(daemon.events(kind)) for kind in ("SlotOverdue", "SlotSlow")] == [1, 1]
    several = "select count(*) > 3 from ingestd.slot where schedule = 'quick' and ended is not null"
    await eventually(lambda: site.ask(several), every_s=0.2)
    ends = await site.rows("select distinct ended from ingestd.slot where schedule = 'quick' and ended is not null")
    assert [row["ended"] for row in ends] == ["succeeded"]
    status, text = await daemon.get("/metrics")
    assert status == 200
    assert 'ingestd_schedule_slots_overdue_total{deadline="finish",schedule="slow"} 1.0' in text
    assert await daemon.stop() == 0


async def test_the_outside_hears_of_life_and_health_of_silence_and_nobody_of_the_url(site: Site) -> None:
    calls: list[str] = []
    async with outside(calls) as url:
        site.configure(heartbeat(url))
        daemon = await site.start()
        await eventually(lambda: calls == [f"/{SECRET}"])
        await eventually(lambda: is_in(daemon, "heartbeat", "healthy"))
        site.configure(heartbeat(f"http://127.0.0.1:1/{SECRET}"))
        assert "[heartbeat]" in await reloaded(daemon)
        await eventually(lambda: is_in(daemon, "heartbeat", "degraded"))
        site.configure(heartbeat(url + "-again"))
        await reloaded(daemon)
        await eventually(lambda: f"/{SECRET}-again" in calls)
        await eventually(lambda: is_in(daemon, "heartbeat", "healthy"))
        shown = [daemon.log(), str(await daemon.get("/health")), str(await daemon.get("/metrics"))]
        assert [SECRET in text for text in shown] == [False, False, False]
        assert "could not connect: Connection refused" in daemon.log()
    assert await daemon.stop() == 0
