"""Promise 10: draining stops claiming, lets jobs finish, and hands the rest back without spending an attempt."""

from __future__ import annotations

import signal
import time
from typing import Any

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from tests.daemon.harness import Daemon, Site
from tests.faults import ledger
from tests.support import CROWDED, eventually

HANDLERS = 'handlers = ["tests.daemon.jobs"]\n'
FORCED_S = 5.0
LONG: dict[str, dict[str, Any]] = {"until_file": {"path": "/nowhere"}, "deaf": {}, "in_thread": {}, "rude": {}}


async def put(site: Site, kind: str, **args: Any) -> int:
    async with site.connection() as conn:
        await ledger.open_ledger(conn)
        return (await enqueue(conn, [NewJob(kind, args)]))[0]


async def running(site: Site, job_id: int) -> None:
    """Until the handler has begun: a node publishes what it has started once a second."""
    await eventually(lambda: site.ask("select 1 from ingestd.node_progress where $1 = any (started)", job_id), saying=f"job {job_id} runs")


async def long_running(site: Site) -> dict[str, int]:
    """One job of each kind that takes longer than anybody waits, all of them begun."""
    jobs = {kind: await put(site, kind, **args) for kind, args in LONG.items()}
    for job_id in jobs.values():
        await running(site, job_id)
    return jobs


async def open_row(site: Site, job_id: int) -> Any:
    (row,) = await site.rows("select claim, attempt, crashes, parked, run_at <= now() as due from ingestd.job where id = $1", job_id)
    return row


def admin_port(site: Site) -> int:
    return int((site.state / "admin.port").read_text())


async def test_a_running_job_finishes_and_nothing_new_is_claimed(site: Site) -> None:
    site.configure(daemon=HANDLERS + 'drain_timeout = "30s"')
    daemon = await site.start()
    assert daemon.url.endswith(f":{admin_port(site)}")
    go = site.folder / "go"
    first = await put(site, "until_file", path=str(go))
    await running(site, first)
    daemon.signal(signal.SIGTERM)
    await eventually(lambda: daemon.events("NodeDraining"))
    assert await daemon.status("/health/ready") == 503
    assert await daemon.status("/health/live") == 200
    later = await put(site, ledger.KIND)
    go.touch()
    assert await daemon.ended() == 0
    assert await site.ask("select state from ingestd.history where id = $1", first) == "succeeded"
    assert (await open_row(site, later))["attempt"] == 0
    assert await site.ask("select state from ingestd.node") == "stopped"
    assert not (site.state / "admin.port").exists()
    assert list((site.state / "nodes").iterdir()) == []


async def test_jobs_that_take_longer_are_handed_back_unspent_however_they_take_it(site: Site) -> None:
    site.configure(daemon=HANDLERS + 'drain_timeout = "0.2s"')
    daemon = await site.start()
    jobs = await long_running(site)
    assert await daemon.stop() == 0
    for kind, job_id in jobs.items():
        row = await open_row(site, job_id)
        assert (kind, row["claim"], row["attempt"], row["crashes"], row["parked"], row["due"]) == (kind, None, 0, 0, 0, True)
    assert len(await site.rows("select from ingestd.history")) == 0


async def test_a_second_sigterm_ends_it_within_five_seconds(site: Site) -> None:
    site.configure(daemon=HANDLERS + 'drain_timeout = "10m"')
    daemon = await site.start()
    jobs = await long_running(site)
    daemon.signal(signal.SIGTERM)
    await eventually(lambda: daemon.events("NodeDraining"))
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert await daemon.ended() == 75
    assert time.monotonic() - began < FORCED_S * CROWDED
    assert [(await open_row(site, job_id))["attempt"] for job_id in jobs.values()] == [0] * len(jobs)
    assert not (site.state / "admin.port").exists()


async def test_a_handler_that_blocks_the_event_loop_cannot_hold_it_up(site: Site) -> None:
    site.configure(daemon=HANDLERS + 'drain_timeout = "10m"')
    daemon = await site.start()
    job_id = await put(site, "blocks", seconds=600)
    await eventually(lambda: site.ask("select 1 from ingestd.job where id = $1 and claim is not null", job_id))
    began = time.monotonic()

    def again() -> bool:
        # A signal that comes before the one before it was seen is the same one to the kernel, and nothing here tells when it was.
        daemon.signal(signal.SIGTERM)
        return not daemon.alive

    await eventually(again)
    assert (await daemon.ended(), time.monotonic() - began < FORCED_S * CROWDED) == (75, True)
    assert "ended by force" in daemon.log()


async def test_the_embedded_postgres_ends_with_the_last_daemon(own_site: Site) -> None:
    first = await own_site.start()
    second = await own_site.start("--duties", "work")
    assert own_site.postmaster is not None
    assert await first.stop() == 0
    assert own_site.postmaster is not None
    assert await second.stop() == 0
    assert own_site.postmaster is None
    assert not (own_site.place().data / "postmaster.pid").exists()


async def test_a_start_that_waits_for_postgres_can_be_given_up(site: Site) -> None:
    site.external = "postgresql://nobody@127.0.0.1:1/nothing"
    site.configure(daemon='start_timeout = "10m"')
    daemon = site.launch()
    await eventually(lambda: waits(daemon))
    daemon.signal(signal.SIGTERM)
    assert await daemon.ended(5.0) == 0


def waits(daemon: Daemon) -> bool:
    """It sleeps on its event loop: the interpreter has been loaded and the handlers are in place."""
    status = f"/proc/{daemon.pid}/status"
    with open(status, encoding="ascii") as file:  # noqa: PTH123
        caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)
