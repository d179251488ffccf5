"""What gauges and health checks say about schedules, from rows as the scheduler and the watch leave them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.facts import Check, Gauge
from ingestd.jobs.model import State
from ingestd.postgres.pool import Database
from ingestd.schedule import facts
from ingestd.schedule import watch as watch_module
from ingestd.schedule.firing import Firer
from tests.schedule.conftest import backdate, declare
from tests.schedule.watching import Watching, begin, end, pulse, slot_with_job

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


async def checks(conn: asyncpg.Connection, **given: Any) -> dict[str, Check]:
    source = facts.facts(**given).checks
    assert source is not None
    return {check.name: check for check in await source(conn)}


async def gauges(conn: asyncpg.Connection, name: str) -> dict[str, float]:
    """Values by schedule."""
    return {gauge.labels.get("schedule", ""): gauge.value for gauge in await facts.gauges(conn) if gauge.name == name}


async def ended(conn: asyncpg.Connection, name: str, *states: str) -> None:
    """Slots an hour apart whose jobs have ended so, the newest last."""
    for hours, state in zip(range(len(states), 0, -1), states, strict=True):
        await conn.execute(
            """insert into ingestd.slot (schedule, due_at, state, job_id, fired_at, ended, ended_at)
               values ($1, now() - $2::interval, 'fired', nextval('ingestd.job_id_seq'), now() - $2::interval, $3, now() - $2::interval)""",
            name,
            hours * HOUR,
            state,
        )


async def test_nothing_declared_is_healthy(conn: asyncpg.Connection) -> None:
    assert {check.status for check in (await checks(conn)).values()} == {"healthy"}


async def test_a_clock_that_was_set_back_behind_recorded_slots_degrades(conn: asyncpg.Connection) -> None:
    """They fire once, so that a clock that was a year ahead for a moment silences schedules for a year."""
    await declare(conn, {"one": {"every": "1m"}, "two": {"every": "1m"}})
    await conn.execute("update ingestd.schedule set accounted_to = now() + interval '1 year' where name = 'one'")
    check = (await checks(conn))["schedules"]
    assert (check.status, check.value[:61]) == ("degraded", "the database's clock was set back: 1 schedules have no slots ")


async def test_slots_that_nobody_fires_are_critical_and_the_check_says_what_to_do(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    assert (await checks(conn))["schedules"].status == "healthy"
    await backdate(conn, 3 * MINUTE)
    await pulse(conn, 2 * MINUTE)
    check = (await checks(conn))["schedules"]
    assert check.status == "critical"
    assert check.value.startswith("no node has fired slots since")
    assert 'duty "schedule"' in check.hint


async def test_a_scheduler_that_gives_signs_and_fires_nothing_is_found_out(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await pulse(conn, timedelta())
    await backdate(conn, 3 * MINUTE)
    check = (await checks(conn))["schedules"]
    assert (check.status, "one has waited" in check.value) == ("degraded", True)
    await backdate(conn, 6 * MINUTE)
    assert (await checks(conn))["schedules"].status == "critical"


async def test_a_node_says_that_slots_stand_still_once_its_watch_is_sure(
    db: Database, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, 3 * MINUTE)
    await pulse(conn, 2 * MINUTE)
    watching = Watching(db)
    await watching.watch.poll()
    assert (await checks(conn, watch=watching.watch))["schedules"].status == "degraded"
    monkeypatch.setattr(watch_module, "SURE_AFTER_S", 0.0)
    await watching.watch.poll()
    assert (await checks(conn, watch=watching.watch))["schedules"].status == "critical"


async def test_a_rule_that_cannot_be_computed_degrades_health(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await conn.execute("update ingestd.schedule set problem = 'no such zone', next_due_at = now() + interval '1 minute'")
    assert "no such zone" in (await checks(conn))["schedules"].value


async def test_a_missed_slot_degrades_health_until_the_schedule_has_run_again(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}, "two": {"every": "1m"}})
    await conn.execute("insert into ingestd.slot (schedule, due_at, state) values ('one', now() - interval '1 hour', 'missed')")
    check = (await checks(conn))["schedules_missed"]
    assert (check.status, check.since is not None) == ("degraded", True)
    assert check.value.startswith("one missed its slot of")
    assert "ingestd schedules trigger one" in check.hint
    await slot_with_job(conn, "two")
    assert (await checks(conn))["schedules_missed"].status == "degraded"
    await slot_with_job(conn, "one")
    assert (await checks(conn))["schedules_missed"].status == "healthy"


async def test_an_overdue_job_degrades_health_while_it_is_open(db: Database, conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    job = await slot_with_job(conn, "one", age=HOUR, finish_within=MINUTE)
    claim = await begin(conn, job)
    watching = Watching(db)
    await watching.look(conn)
    check = (await checks(conn))["schedules_overdue"]
    assert (check.status, check.value) == ("degraded", f"job {job} of one: not finished within 1m")
    assert f"ingestd jobs cancel {job}" in check.hint
    assert await gauges(conn, "schedule_overdue_jobs") == {"one": 1.0}
    await end(conn, job, claim, State.FAILED)
    await watching.look(conn)
    assert (await checks(conn))["schedules_overdue"].status == "healthy"
    assert await gauges(conn, "schedule_overdue_jobs") == {"one": 0.0}
    assert await gauges(conn, "schedule_late_slots") == {"one": 1.0}
    assert await gauges(conn, "schedule_consecutive_failures") == {"one": 1.0}


@pytest.mark.parametrize(
    ("states", "failures"),
    [
        ([], 0),
        (["failed"], 1),
        (["succeeded", "failed", "failed"], 2),
        (["failed", "failed", "partial"], 0),
        (["failed", "succeeded", "failed", "cancelled", "failed", "skipped"], 2),
        (["failed", "cancelled"], 1),
        (["failed"] * 5, 5),
    ],
)
async def test_failures_in_a_row_reach_back_to_the_last_success(conn: asyncpg.Connection, states: list[str], failures: int) -> None:
    await declare(conn, {"a_sound_one": {"every": "1m"}, "one": {"every": "1m"}, "zz": {"every": "1m"}})
    await ended(conn, "zz", "failed")
    await ended(conn, "one", *states)
    assert await gauges(conn, "schedule_consecutive_failures") == {"a_sound_one": 0.0, "one": float(failures), "zz": 1.0}
    check = (await checks(conn, failures_in_a_row=lambda: 2))["schedules_failing"]
    assert (check.status == "degraded") == (failures >= 2)
    if failures >= 2:
        assert check.value == f"one failed {failures} times in a row"
        assert "ingestd jobs show" in check.hint


async def test_removed_and_disabled_schedules_ail_no_more(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}, "two": {"every": "1m"}})
    for name in ("one", "two"):
        await ended(conn, name, "failed", "failed", "failed")
        await conn.execute("insert into ingestd.slot (schedule, due_at, state) values ($1, now() - interval '1 minute', 'missed')", name)
    await declare(conn, {"two": {"every": "1m", "enabled": False}})
    assert {check.status for check in (await checks(conn)).values()} == {"healthy"}


async def test_gauges_name_the_next_run_and_missed_slots(conn: asyncpg.Connection) -> None:
    quarter = (datetime.now(UTC) - timedelta(minutes=15)).minute
    await declare(conn, {"one": {"cron": f"{quarter} * * * *", "catch_up": "none"}})
    await backdate(conn, timedelta(hours=3))
    await Firer().fire_all(conn)
    assert await gauges(conn, "schedule_missed_slots") == {"one": 3.0}
    assert (await gauges(conn, "schedule_next_run_timestamp_seconds"))["one"] > datetime.now(UTC).timestamp()


async def test_downtime_and_the_last_look_are_gauged(conn: asyncpg.Connection) -> None:
    await conn.execute(
        """insert into ingestd.downtime (began_at, ended_at) values (now() - interval '90 minutes', now() - interval '30 minutes'),
           (now() - interval '30 hours', now() - interval '23 hours'), (now() - interval '3 days', now() - interval '2 days')"""
    )
    await pulse(conn, MINUTE)
    found: dict[str, Gauge] = {gauge.name: gauge for gauge in await facts.gauges(conn)}
    assert found["schedule_downtimes"].value == 2
    assert found["schedule_downtime_seconds"].value == pytest.approx(2 * 3600, abs=1)
    assert 60 <= found["schedule_pulse_age_seconds"].value < 120


async def test_of_very_many_schedules_only_what_ails_is_gauged_one_by_one(
    conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "GAUGED_ALL", 2)
    await declare(conn, {name: {"every": "1m"} for name in ("one", "two", "three")})
    await ended(conn, "two", "failed")
    assert await gauges(conn, "schedule_consecutive_failures") == {"two": 1.0}
    assert len(await gauges(conn, "schedule_next_run_timestamp_seconds")) == 3
