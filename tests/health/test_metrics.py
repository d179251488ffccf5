"""Metrics follow what happens, in bounded memory, and spare the database."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ingestd import events
from ingestd.facts import FactBook, Gauge, RoomFacts
from ingestd.health import metrics as module
from ingestd.health.metrics import Metrics
from ingestd.postgres.pool import Database
from ingestd.service import LoopState


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_events_are_counted(db: Database) -> None:
    """Each under its kind, schedule, import or rollup."""
    bus = events.Bus()
    made = Metrics(db, FactBook(), bus, "1.2.3")
    now = datetime.now(UTC)
    for event in (
        events.JobsSucceeded("plain", (10, 20, 3_000)), events.JobFinished(1, "load", "succeeded", 1500),
        events.JobRetrying(2, "load", 1, 60, "x"),
        events.StaleAck(3, "load"), events.JobsRescued("n", 4, "dead"), events.FileArrived("readings", "a.csv", 100, 1),
        events.LoadFinished(1, "readings", "a.csv", "partial", read=10, inserted=7, rejected=3),
        events.RollupRefreshed("daily", 1, 30, 250), events.SlotFired("nightly", now, 1), events.SlotMissed("nightly", now, "x"),
        events.SlotOverdue("nightly", now, "finish", 1, "x"), events.SlotSlow("nightly", now, 1, "5m"), events.SlotsStopped(now, 2),
        events.Downtime(now, now, 2, missed=4, late=1),
        events.DatabaseLost("x"), events.Notice("not counted"),
    ):  # fmt: skip
        bus.emit(event)
    found = samples(await made.exposition())
    load = (("kind", "load"),)
    for key, value in {
        ("ingestd_build_info", (("version", "1.2.3"),)): 1,
        ("ingestd_jobs_finished_total", (("kind", "plain"), ("outcome", "succeeded"))): 3,
        ("ingestd_job_duration_seconds_count", (("kind", "plain"),)): 3,
        ("ingestd_job_duration_seconds_bucket", (("kind", "plain"), ("le", "0.025"))): 2,
        ("ingestd_jobs_finished_total", (("kind", "load"), ("outcome", "succeeded"))): 1,
        ("ingestd_job_duration_seconds_sum", load): 1.5,
        ("ingestd_jobs_retried_total", load): 1,
        ("ingestd_stale_acks_total", load): 1,
        ("ingestd_jobs_rescued_total", ()): 4,
        ("ingestd_file_bytes_total", (("import_name", "readings"),)): 100,
        ("ingestd_loads_finished_total", (("import_name", "readings"), ("status", "partial"))): 1,
        ("ingestd_load_records_total", (("import_name", "readings"), ("outcome", "inserted"))): 7,
        ("ingestd_load_records_total", (("import_name", "readings"), ("outcome", "rejected"))): 3,
        ("ingestd_rollup_refresh_duration_seconds_sum", (("rollup", "daily"),)): 0.25,
        ("ingestd_schedule_slots_fired_total", (("schedule", "nightly"),)): 1,
        ("ingestd_schedule_slots_missed_total", (("schedule", "nightly"),)): 1,
        ("ingestd_schedule_slots_overdue_total", (("deadline", "finish"), ("schedule", "nightly"))): 1,
        ("ingestd_schedule_slots_slow_total", (("schedule", "nightly"),)): 1,
        ("ingestd_schedule_stopped_total", ()): 1,
        ("ingestd_schedule_downtime_slots_total", (("outcome", "missed"),)): 4,
        ("ingestd_schedule_downtime_slots_total", (("outcome", "late"),)): 1,
        ("ingestd_database_lost_total", ()): 1,
    }.items():  # fmt: skip
        assert found[key] == value, key
    made.close()
    bus.emit(events.DatabaseLost("x"))
    assert samples(await made.exposition())["ingestd_database_lost_total", ()] == 1


async def test_every_loop_has_its_failures_and_its_last_tick(db: Database) -> None:
    """From its start on, also where it never failed, so that an alert can tell silence from health."""
    loops = {"claimer": LoopState(last_tick=time.monotonic() - 60, restarts=2), "rescuer": LoopState()}
    made = Metrics(db, FactBook(), events.Bus(), "1", lambda: loops)
    found = samples(await made.exposition())
    assert found["ingestd_loop_failures_total", (("loop", "claimer"),)] == 2
    assert found["ingestd_loop_failures_total", (("loop", "rescuer"),)] == 0
    assert found["ingestd_loop_last_tick_timestamp_seconds", (("loop", "claimer"),)] == pytest.approx(time.time() - 60, abs=5)
    assert ("ingestd_loop_last_tick_timestamp_seconds", (("loop", "rescuer"),)) not in found


async def test_every_name_keeps_the_rules(db: Database) -> None:
    """Our prefix or the process's own, base units, help on each."""
    made = Metrics(db, FactBook(), events.Bus(), "1")
    for family in text_string_to_metric_families((await made.exposition()).decode()):
        assert family.name.startswith(("ingestd_", "process_")), family.name
        assert family.documentation, family.name
        assert not family.name.endswith(("_ms", "_milliseconds", "_kb", "_mb")), family.name


async def test_ten_thousand_names_take_no_more_room_than_two_hundred(db: Database) -> None:
    """Kinds come from outside; the rest is counted together."""
    bus = events.Bus()
    made = Metrics(db, FactBook(), bus, "1")
    for number in range(10_000):
        bus.emit(events.StaleAck(number, f"kind_{number}"))
    found = samples(await made.exposition())
    kinds = {labels[0][1] for name, labels in found if name == "ingestd_stale_acks_total"}
    assert len(kinds) == module.MAX_LABEL_VALUES + 1
    assert found["ingestd_stale_acks_total", (("kind", "_other"),)] == 9_800


async def test_scrapes_within_fifteen_seconds_read_the_database_once(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many scrapers there are."""
    asked = []

    async def gauges(conn: asyncpg.Connection) -> list[Gauge]:
        asked.append(await conn.fetchval("select 1"))
        return [Gauge("jobs", 3, "Open jobs.", {"queue": "default"}), Gauge("jobs", 1, "Open jobs.", {"queue": "imports"})]

    book = FactBook()
    book.add("jobs", RoomFacts(gauges=gauges))
    made = Metrics(db, book, events.Bus(), "1")
    for text in await asyncio.gather(*(made.exposition() for _ in range(10))):
        assert samples(text)["ingestd_jobs", (("queue", "imports"),)] == 1
    assert len(asked) == 1
    monkeypatch.setattr(module, "FRESH_FOR_S", -1.0)
    await made.exposition()
    assert len(asked) == 2


async def test_a_room_that_cannot_be_read_costs_only_its_own_gauges(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so."""
    monkeypatch.setattr(module, "READ_TIMEOUT_S", 0.2)

    async def hangs(_: asyncpg.Connection) -> list[Gauge]:
        await asyncio.sleep(3600)
        return []

    async def raises(_: asyncpg.Connection) -> list[Gauge]:
        raise RuntimeError

    async def works(_: asyncpg.Connection) -> list[Gauge]:
        return [Gauge("fine", 1, "Fine."), Gauge("fine", 2, "Fine.", {"odd": "labels"})]

    book = FactBook()
    for name, source in (("hangs", hangs), ("raises", raises), ("works", works)):
        book.add(name, RoomFacts(gauges=source))
    found = samples(await Metrics(db, book, events.Bus(), "1").exposition())
    errors = {labels[0][1]: value for (name, labels), value in found.items() if name == "ingestd_scrape_error"}
    assert errors == {"hangs": 1, "raises": 1, "works": 0}
    assert found["ingestd_fine", ()] == 1
