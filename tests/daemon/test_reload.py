"""SIGHUP: a valid configuration is applied at once, a broken one is refused and told, a key for which that is too late waits."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.daemon import readings
from tests.daemon.harness import Daemon, Site
from tests.support import LONG, eventually
from tests.tokens import bearer

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
        assert "ingestd_config_last_reload_successful 0.0" in (await daemon.get("/metrics"))[1]
    site.config.unlink()
    assert "no configuration file" in await reloaded(daemon)
    assert await site.ask("select spec ->> 'cron' from ingestd.schedule where name = 'nightly'") == "0 2 * * *"
    site.configure(NIGHTLY.replace("0 2", "0 3"))
    assert "configuration applied: [schedules]" in await reloaded(daemon)
    await eventually(lambda: healthy(daemon))
    _, metrics = await daemon.get("/metrics")
    assert "ingestd_config_last_reload_successful 1.0" in metrics
    assert 'ingestd_config_reloads_total{result="refused"} 4.0' in metrics
    assert 'ingestd_config_reloads_total{result="applied"} 1.0' in metrics
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
        admin=f'port = 8999\ntoken = "{TOKEN}"',
    )
    assert (await daemon.get("/health/configuration", headers=bearer(TOKEN)))[0] == 401
    said = await reloaded(daemon)
    assert (await daemon.get("/health/configuration", headers=bearer(TOKEN)))[0] == 200
    assert "these need a restart: [daemon] environment, [admin] port" in said
    await readings.all_loaded(site, "one.csv")
    assert await site.ask("select concurrency from ingestd.queue where name = 'extra'") == 3
    await eventually(lambda: daemon.events("JobStarted"))
    assert "[admin] port" in (await daemon.check("configuration"))["value"]
    # A second reload of the same file still tells what waits.
    assert "[admin] port" in await reloaded(daemon)
    assert await daemon.stop() == 0


TOKEN = "a-token-of-more-than-sixteen-characters"
EVERY_SECOND = '[schedules.often]\nevery = "1s"\ncommand = "health"\noverlap = "allow"\n'
KEYS = (
    'jitter = "300ms"',
    'jitter = "300ms"\nstart_within = "30m"',
    'finish_within = "1h"\ntarget_runtime = "10m"',
    "start = 2020-01-01",
    'start = 2020-01-01\nend = 2990-12-31\ntimezone = "Asia/Kathmandu"',
    'after = [{ job = "health", on_failure = "run" }]',
    'tags = ["x"]\npriority = "low"',
)
# Seconds from the first slot to the last, and how many of them are rows.
SLOTS = """
select extract(epoch from max(due_at) - min(coalesce(first_due_at, due_at)))::bigint + 1 as seconds, sum(slots)::bigint as slots,
       count(job_id) as jobs, count(distinct job_id) as different, max(due_at) as newest
from ingestd.slot where schedule = 'often'"""
RUN = """
select count(*) from (select metadata from ingestd.job union all select metadata from ingestd.history) j
where metadata ->> 'schedule' = 'often'"""


async def test_every_key_of_a_schedule_changes_at_once_and_no_slot_is_lost_or_doubled(site: Site) -> None:
    site.configure(EVERY_SECOND)
    daemon = await site.start()
    for keys in (*KEYS, "", *(reversed(KEYS) if LONG else ())):
        (before,) = await site.rows(SLOTS)

        async def fired(before: object = before["newest"]) -> bool:
            (now,) = await site.rows(SLOTS)
            return now["newest"] is not None and (before is None or now["newest"] > before)

        await eventually(fired)
        site.configure(EVERY_SECOND + keys + "\n")
        assert "configuration applied: [schedules]" in await reloaded(daemon)
        spec = await site.ask("select array(select jsonb_object_keys(spec)) from ingestd.schedule")
        assert {line.split(" = ")[0] for line in keys.splitlines()} <= set(spec)
    assert await daemon.stop() == 0
    (found,) = await site.rows(SLOTS)
    assert found["seconds"] == found["slots"] > len(KEYS)
    assert found["jobs"] == found["different"] == await site.ask(RUN)


async def test_a_schedule_made_at_run_time_survives_reloads_until_the_file_declares_its_name(site: Site) -> None:
    upload = '[imports.readings]\nsource = "upload"\ntable = "public.readings"\n'
    site.configure(upload)
    daemon = await site.start()
    status, _ = await daemon.post("/api/v1/schedules", {"name": "nightly", "every": "1h", "import": "readings"})
    assert status == 201
    site.configure(upload + '[logs]\nlevel = "debug"\n')
    await reloaded(daemon)
    assert await site.ask("select owner from ingestd.schedule where name = 'nightly' and removed_at is null") == "api"

    site.configure()
    await reloaded(daemon)
    assert [event for event in daemon.events("Notice") if 'there is no import "readings"' in event["event"]]
    assert await site.ask("select owner from ingestd.schedule where name = 'nightly' and removed_at is null") == "api"

    site.configure(NIGHTLY)
    await reloaded(daemon)
    assert await site.ask("select owner from ingestd.schedule where name = 'nightly'") == "file"
    await eventually(lambda: [event for event in daemon.events("Notice") if "the configuration declares it" in event["event"]])
    status, problem = await daemon.request("PATCH", "/api/v1/schedules/nightly", json={"every": "2h"})
    assert status == 409
    assert "change it there and reload" in problem["detail"]
    assert await daemon.stop() == 0


async def test_a_schedule_made_at_run_time_is_fired_at_its_first_slot(site: Site) -> None:
    """Without being told, the scheduler would look no sooner than 15 s after its last look."""
    daemon = await site.start()
    status, _ = await daemon.post("/api/v1/schedules", {"name": "often", "every": "1s", "command": "health", "overlap": "allow"})
    assert status == 201

    async def first() -> bool:
        return bool(await site.ask("select count(*) from ingestd.slot"))

    await eventually(first)
    late = "select extract(epoch from min(fired_at) - min(s.since))::float8 from ingestd.slot, ingestd.schedule s"
    assert await site.ask(late) < 14
    assert await daemon.stop() == 0


async def test_a_kind_that_no_node_knows_is_said_when_the_configuration_is_applied(site: Site) -> None:
    often = '[schedules.often]\nevery = "1h"\njob = "{}"\nafter = [{{ job = "health" }}, {{ job = "{}" }}]\n'
    site.module("mine", "from ingestd import job\n\n@job('greet', aliases=['hello'])\nasync def greet(ctx): ...\n")
    site.configure(often.format("hello", "greet"), daemon='handlers = ["mine"]')
    daemon = await site.start()
    assert [event["event"] for event in daemon.events("Notice") if "kind" in event["event"]] == []
    site.configure(often.format("gret", "greett"), daemon='handlers = ["mine"]')
    await reloaded(daemon)
    said = [event["event"] for event in daemon.events("Notice") if "kind" in event["event"]]
    assert said == [
        '"job" in [schedules.often]: no node knows the kind "gret", did you mean "greet"?',
        '"after" in [schedules.often]: no node knows the kind "greett", did you mean "greet"?',
    ]
    assert await daemon.stop() == 0


def catches_hangups(pid: int) -> bool:
    """Whether a process has a handler of its own, which it has before it has imported anything."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGHUP - 1) & 1)


async def test_a_reload_that_cannot_end_holds_up_neither_the_loop_nor_the_end(site: Site) -> None:
    daemon = site.launch("-v")
    await eventually(lambda: catches_hangups(daemon.pid))
    daemon.signal(signal.SIGHUP)
    await daemon.until_ready()
    text = site.config.read_text(encoding="utf-8")
    site.config.unlink()
    os.mkfifo(site.config)
    daemon.signal(signal.SIGHUP)
    with await asyncio.wait_for(asyncio.to_thread(site.config.open, "w"), 30) as somebody:
        # It is being read, and its end does not come.
        assert await daemon.status("/health/ready") == 200
        before = len(daemon.events("ConfigurationApplied"))
        somebody.write(text)
    site.config.unlink()
    await eventually(lambda: len(daemon.events("ConfigurationApplied")) > before)
    await site.ask("select ingestd.enqueue('health')")
    await eventually(lambda: daemon.events("JobStarted"), saying="as talkative as it was told to be at the start")

    site.configure('[queues.extra]\nconcurrency = 3\n[logs]\nlevel = "info"\n')
    async with site.connection() as conn, conn.transaction():
        await conn.execute("lock table ingestd.queue")
        daemon.signal(signal.SIGHUP)

        async def waits() -> bool:
            return bool(await site.ask("select count(*) from pg_locks where not granted"))

        await eventually(waits)
        assert await daemon.stop() == 0
