"""SIGHUP: a valid configuration is applied at once, a broken one is refused and told, a key for which that is too late waits."""

from __future__ import annotations

import signal

from tests.daemon import readings
from tests.daemon.harness import Daemon, Site
from tests.support import eventually

NIGHTLY = '[schedules.nightly]\ncron = "0 2 * * *"\ncommand = "cleanup"\n'


async def reloaded(daemon: Daemon) -> str:
    """Ask for a reload; returns what the log says came of it."""

    def outcomes() -> list[str]:
        return [event["event"] for kind in ("ConfigurationApplied", "ConfigurationRefused") for event in daemon.events(kind)]

    before = len(outcomes())
    seen = set(outcomes())
    daemon.signal(signal.SIGHUP)
    await eventually(lambda: len(outcomes()) > before)
    return next((outcome for outcome in outcomes() if outcome not in seen), outcomes()[-1])


async def test_a_broken_file_leaves_the_old_configuration_in_force_and_is_told(site: Site) -> None:
    site.configure(NIGHTLY)
    daemon = await site.start()
    assert (await daemon.check("configuration"))["status"] == "healthy"
    for broken, reason in (
        (NIGHTLY.replace("0 2", "99 2"), "nightly"),
        ("[schedules\n", "not valid TOML"),
        ('[imports.readings]\nsource = "inbox/*.csv"\n', '"table"'),
    ):
        site.configure(broken)
        said = await reloaded(daemon)
        assert "the old one stays" in said
        assert reason in said

        async def shown(reason: str = reason) -> bool:
            check = await daemon.check("configuration")
            return check["status"] == "degraded" and reason in check["value"] and bool(check["since"])

        await eventually(shown)
        assert await daemon.status("/health/ready") == 200
    site.config.unlink()
    assert "no configuration file" in await reloaded(daemon)
    assert await site.ask("select spec ->> 'cron' from ingestd.schedule where name = 'nightly'") == "0 2 * * *"
    site.configure(NIGHTLY.replace("0 2", "0 3"))
    assert "configuration applied: [schedules]" in await reloaded(daemon)
    await eventually(lambda: healthy(daemon))
    assert await site.ask("select spec ->> 'cron' from ingestd.schedule where name = 'nightly'") == "0 3 * * *"
    assert await daemon.stop() == 0


async def healthy(daemon: Daemon) -> bool:
    return (await daemon.check("configuration"))["status"] == "healthy"


async def test_imports_queues_and_log_level_change_at_once_and_the_rest_waits_for_a_restart(site: Site) -> None:
    daemon = await site.start()
    await readings.put_readings(site, "one.csv", 10)
    site.configure(
        readings.IMPORT + '[logs]\nlevel = "debug"\n[queues.extra]\nconcurrency = 3\n',
        daemon='environment = "elsewhere"',
        admin="port = 8999",
    )
    said = await reloaded(daemon)
    assert "these need a restart: [daemon] environment, [admin] port" in said
    await readings.all_loaded(site, "one.csv")
    assert await site.ask("select concurrency from ingestd.queue where name = 'extra'") == 3
    await eventually(lambda: daemon.events("JobStarted"))
    assert "[admin] port" in (await daemon.check("configuration"))["value"]
    # A second reload of the same file still tells what waits.
    assert "[admin] port" in await reloaded(daemon)
    assert await daemon.stop() == 0
