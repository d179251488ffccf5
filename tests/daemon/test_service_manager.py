"""What a service manager hears from a daemon, in which order, and when it hears nothing more."""

from __future__ import annotations

import signal
import socket
import time
from datetime import datetime
from itertools import pairwise

from tests.daemon.harness import Site
from tests.daemon.service_manager import service_manager
from tests.support import eventually

BLOCKING = """
import time
from ingestd import job

@job("block")
async def block(ctx, seconds: float):
    time.sleep(seconds)
"""


async def block(site: Site, seconds: float) -> None:
    """Block the daemon's loop; not over HTTP, whose answer may be what is blocked."""
    await site.ask("select ingestd.enqueue('block', jsonb_build_object('seconds', $1::float8))", seconds)


async def test_a_life_is_told_in_order_and_ready_only_once_the_admin_server_answers(site: Site) -> None:
    site.configure(daemon='drain_timeout = "40s"')
    with service_manager(abstract=True) as manager:
        daemon = site.launch(environment=manager.environment())
        await eventually(lambda: manager.steps() == ["READY"])
        await daemon.until_ready()
        assert manager.status.startswith(f"serving at {daemon.url}; 0 jobs running")
        assert int(manager.told("EXTEND_TIMEOUT_USEC")[0]) >= 10_000_000, "the start asks for time before it is ready"

        site.configure("[schedules\n", daemon='drain_timeout = "40s"')
        daemon.signal(signal.SIGHUP)
        await eventually(lambda: manager.steps() == ["READY", "RELOADING", "READY"])
        assert "configuration refused, the old one stays: " in manager.status
        (asked_at,) = manager.told("MONOTONIC_USEC")
        assert 0 < time.monotonic() - int(asked_at) / 1e6 < 300

        site.configure('[logs]\nlevel = "debug"\n', daemon='drain_timeout = "70s"')
        daemon.signal(signal.SIGHUP)
        await eventually(lambda: manager.steps() == ["READY", "RELOADING", "READY", "RELOADING", "READY"])
        assert "refused" not in manager.status
        assert "waits for a restart: [daemon] drain_timeout" in manager.status

        assert await daemon.stop() == 0
        await eventually(lambda: manager.status.startswith("closing"), saying="the last word of the daemon has been heard")
        assert manager.steps() == ["READY", "RELOADING", "READY", "RELOADING", "READY", "STOPPING"]
        (stopping,) = [message for _, message in manager.messages if "STOPPING" in message]
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) >= 40_000_000, "a drain is given its time, whatever the unit says"


async def test_a_start_that_waits_for_postgres_says_so_asks_for_time_and_is_never_ready(site: Site) -> None:
    with socket.socket() as nobody, service_manager() as manager:
        nobody.bind(("127.0.0.1", 0))
        site.external = f"postgresql://nobody@127.0.0.1:{nobody.getsockname()[1]}/x"
        site.configure()
        daemon = site.launch(environment=manager.environment())
        await eventually(lambda: manager.status.startswith("starting: waiting for Postgres"))
        asked = len(manager.told("EXTEND_TIMEOUT_USEC"))
        await eventually(lambda: len(manager.told("EXTEND_TIMEOUT_USEC")) > asked)
        assert await daemon.stop() == 0
        await eventually(lambda: manager.steps() == ["STOPPING"])


async def test_the_watchdog_is_fed_while_a_job_blocks_the_loop_until_that_has_lasted_for_stall_limit(site: Site) -> None:
    site.module("mine", BLOCKING)
    site.configure(daemon='handlers = ["mine"]\nstall_limit = "5s"')
    with service_manager() as manager:
        daemon = await site.start(environment=manager.environment(watchdog_s=1.5))
        await block(site, 12)
        (blocked,) = await eventually(lambda: daemon.events("LoopBlocked"))
        await eventually(lambda: daemon.events("LoopFreed"))
        freed = time.monotonic()
        await eventually(lambda: manager.fed_since(freed) >= 2)
        # Whoever looks may look late: what counts is when the daemon said it, and when its manager heard it.
        told_at = datetime.fromisoformat(blocked["timestamp"]).timestamp() - time.time() + time.monotonic()
        fed = [at for at, message in manager.messages if "WATCHDOG" in message and at > told_at]
        silences = [after - before for before, after in pairwise(fed)]
        # Five seconds of silence of the loop, and with it of the daemon, too: whoever watches may end it.
        assert max(silences) > 3
        assert silences.index(max(silences)) >= 1, "fed while the loop was blocked"
        assert await daemon.stop() == 0


async def test_children_do_not_inherit_the_manager(site: Site) -> None:
    site.module("mine", "import os\nfrom ingestd import job\n\n@job('look')\nasync def look(ctx):\n    return dict(os.environ)\n")
    site.configure(daemon='handlers = ["mine"]')
    with service_manager() as manager:
        daemon = await site.start(environment=manager.environment(watchdog_s=60))
        _, made = await daemon.post("/api/v1/jobs", {"kind": "look"})

        async def done() -> dict[str, str]:
            _, shown = await daemon.get(f"/api/v1/jobs/{made['id']}")
            return shown["result"] or {}

        assert {name for name in await eventually(done) if name.startswith(("NOTIFY_", "WATCHDOG_"))} == set()
        assert await daemon.stop() == 0


async def test_usr1_tells_what_blocks_the_loop_and_what_waits_where_and_abrt_ends_it_with_the_stacks_of_all_threads(site: Site) -> None:
    site.module("mine", BLOCKING)
    site.configure(daemon='handlers = ["mine"]')
    daemon = await site.start()
    await block(site, 10)
    await eventually(lambda: daemon.events("LoopBlocked"))
    daemon.signal(signal.SIGUSR1)
    await eventually(lambda: "asked for by SIGUSR1" in daemon.log())

    def stacks() -> dict[str, str]:
        return {event["event"]: event["stack"] for event in daemon.events("Notice") if "stack" in event}

    await eventually(lambda: any("heartbeat" in title for title in stacks()))
    assert "time.sleep(seconds)" in next(stack for title, stack in stacks().items() if title.startswith("thread: MainThread"))
    await eventually(lambda: any("task" in title and "slot" in title for title in stacks()))

    # How a watchdog ends it: what every thread was at is said by the interpreter itself.
    daemon.signal(signal.SIGABRT)
    assert await daemon.ended() == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in daemon.log()
    assert "heartbeat.py" in daemon.log().partition("Fatal Python error")[2]
