"""`run --once`: what is due is done, dependants and rollups included, what is not due waits, and no two do it at once."""

from __future__ import annotations

from tests.daemon.harness import Site
from tests.support import eventually

EVERYTHING = """
[imports.readings]
source = "inbox/*.csv"
table = "public.readings"
settle = "0s"
after_load = "delete"
[rollups.daily]
source = "public.readings"
time = "at"
bucket = "1 day"
measures = { n = "count(*)" }
max_staleness = "1h"
[schedules.often]
every = "1s"
job = "first"
[schedules.then]
every = "1s"
job = "second"
after = [{ job = "first", on_failure = "wait" }]
[workflows.two.steps]
one = { job = "second" }
two = { job = "second", after = ["one"] }
"""
JOBS = """
import asyncio, os
from pathlib import Path
from ingestd import Retry, job

@job("first")
async def first(ctx): ...

@job("second")
async def second(ctx): ...

@job("fail")
async def fail(ctx):
    return Retry("not now", delay="1h")

@job("hold")
async def hold(ctx):
    Path("holding").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.05)
"""


async def test_everything_due_is_done_and_nothing_else_is_waited_for(site: Site) -> None:
    site.module("mine", JOBS)
    site.configure(EVERYTHING, daemon='handlers = ["mine"]')
    assert await site.launch("--once").ended(60) == 0, "there is nothing to do yet"

    (site.inbox / "one.csv").write_text("id,at\n1,2024-01-01T00:00:00Z\n2,2024-01-02T00:00:00Z\n", encoding="utf-8")
    await site.ask("select ingestd.enqueue('fail')")
    await site.ask("select ingestd.enqueue('first', '{}', jsonb_build_object('run_at', now() + interval '1 hour'))")
    await site.ask("select ingestd.enqueue('nobody_knows')")
    await site.ask("select ingestd.enqueue('workflow', '{\"workflow\": \"two\"}')")

    async def due() -> bool:
        return bool(await site.ask("select now() > max(since) + interval '2 seconds' from ingestd.schedule"))

    await eventually(due)
    daemon = site.launch("--once")
    assert await daemon.ended(60) == 0
    assert (await site.rows("select n from rollups.daily_stored order by bucket")) == [(1,), (1,)], "the rollup is stored, not only live"
    assert not (site.inbox / "one.csv").exists()
    done = dict(await site.rows("select kind, count(*) from ingestd.history where state = 'succeeded' group by 1"))
    assert done["second"] >= 3, "two steps of the workflow, and the slot that waited for the first job"
    left = await site.rows("select kind, claim is null as free from ingestd.job order by kind")
    assert [tuple(row) for row in left] == [("fail", True), ("first", True), ("nobody_knows", True)]
    assert daemon.events("LoopFailed") == []
    assert await site.ask("select count(*) from ingestd.node where state <> 'stopped'") == 0
    assert not (site.state / "admin.port").exists()


async def test_a_second_one_exits_with_75_and_a_signal_hands_back_what_the_first_runs(site: Site) -> None:
    site.module("mine", JOBS)
    site.configure(daemon='handlers = ["mine"]\ndrain_timeout = "1s"')
    assert await site.launch("--once").ended(60) == 0
    await site.ask("select ingestd.enqueue('hold')")
    first = site.launch("--once")
    await eventually(lambda: (site.folder / "holding").exists())
    second = site.launch("--once")
    assert await second.ended(60) == 75
    assert "another `run --once` is at work" in second.log()
    assert await first.stop() == 0
    assert [tuple(row) for row in await site.rows("select claim, attempt from ingestd.job")] == [(None, 0)]

    (site.folder / "go").touch()
    assert await site.launch("--once").ended(60) == 0
    assert await site.ask("select count(*) from ingestd.job") == 0


async def test_once_needs_something_to_do(site: Site) -> None:
    refused = site.launch("--once", "--duties", "serve")
    assert await refused.ended(60) == 64
    assert "--once works and schedules" in refused.log()
