"""Real daemons with handlers in processes: whatever ends, nothing is left behind and nobody else is harmed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from tests.daemon.harness import Daemon, Site
from tests.support import eventually

SHOP = """
import os, time
from pathlib import Path
import ingestd
from ingestd import Backoff, SyncContext, job

AT_ONCE = Backoff("10ms", jitter=0)
CLOSED = Path(__file__).with_name("closed")

@ingestd.lifespan
async def resources():
    yield {"folder": Path(__file__).parent}
    with CLOSED.open("a") as file:
        file.write(f"{os.getpid()}\\n")

@job("computes", executor="process", max_attempts=2, backoff=AT_ONCE)
def computes(ctx: SyncContext) -> dict:
    (ctx.resources["folder"] / f"began-{ctx.job.attempt}").write_text(str(os.getpid()))
    while ctx.job.attempt == 1:
        time.sleep(0.01)
    return {"attempt": ctx.job.attempt}

@job("short", executor="process")
def short(ctx: SyncContext) -> dict:
    return {"pid": os.getpid()}

@job("deaf_thread")
def deaf_thread(ctx: SyncContext) -> None:
    (ctx.resources["folder"] / "deaf").touch()
    while True:
        time.sleep(1)
"""


@pytest.fixture
async def daemon(site: Site) -> Daemon:
    site.module("shop", SHOP)
    site.configure(daemon='handlers = ["shop"]\ndrain_timeout = "1s"')
    return await site.start()


async def put(site: Site, kind: str) -> int:
    async with site.connection() as conn:
        (job_id,) = await enqueue(conn, [NewJob(kind)])
    return job_id


async def result(site: Site, job_id: int) -> dict[str, int]:
    return await eventually(lambda: site.ask("select result from ingestd.history where id = $1", job_id))


async def began(site: Site, attempt: int = 1) -> int:
    file = site.folder / f"began-{attempt}"
    return int(await eventually(lambda: file.exists() and file.read_text(), saying="the job has begun"))


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_a_killed_child_is_one_failed_attempt_and_the_daemon_goes_on(site: Site, daemon: Daemon) -> None:
    job_id = await put(site, "computes")
    os.kill(await began(site), signal.SIGKILL)
    assert await result(site, job_id) == {"attempt": 2}
    assert daemon.alive
    assert await site.ask("select attempts -> 0 -> 'error' ->> 'message' from ingestd.history where id = $1", job_id) == "signal 9"


async def test_a_killed_daemon_takes_its_children_along(site: Site, daemon: Daemon) -> None:
    await put(site, "computes")
    child = await began(site)
    daemon.kill()
    await eventually(lambda: not lives(child))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_drain_ends_children_and_does_not_wait_for_the_deaf(site: Site, daemon: Daemon, number: signal.Signals) -> None:
    idle = (await result(site, await put(site, "short")))["pid"]
    ids = [await put(site, "computes"), await put(site, "deaf_thread")]
    busy = await began(site)
    await eventually(lambda: (site.folder / "deaf").exists())
    # As Ctrl-C does it: everything in the terminal's foreground hears it, the daemon's children not.
    os.killpg(daemon.pid, number)
    assert await daemon.ended(60) == 0
    assert not lives(idle)
    assert not lives(busy)
    assert await site.ask("select count(*) from ingestd.job where id = any ($1) and claim is null and attempt = 0", ids) == 2
    closed = Path(site.folder / "closed").read_text().split()
    assert sorted(closed) == sorted([str(idle), str(daemon.pid)])


async def test_a_module_whose_resources_cannot_be_made_stops_the_start(site: Site) -> None:
    site.module("broken", SHOP.replace('yield {"folder"', 'raise OSError("no such model")\n    yield {"folder"'))
    site.configure(daemon='handlers = ["broken"]')
    daemon = site.launch()
    assert await daemon.ended(60) == 78
    assert "resources broken.resources: OSError: no such model" in daemon.log()
