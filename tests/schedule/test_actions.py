"""What people do to schedules, and what they see of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.access.store import latest_audit
from ingestd.errors import Conflict, InvalidInput, NotFound
from ingestd.postgres.pool import connect
from ingestd.schedule import facts
from ingestd.schedule.actions import pause, resume, trigger
from ingestd.schedule.firing import Firer
from ingestd.schedule.preview import next_slots
from ingestd.schedule.store.reads import list_schedules, recent_slots, recent_slots_of
from tests.schedule.conftest import backdate, declare

OPERATOR = Actor("ada", "operator", "cli", "corr-1")
MINUTE = timedelta(minutes=1)


async def test_triggering_enqueues_the_target_now_and_is_audited(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *", "args": {"n": 1}, "priority": 7, "tags": ["t"]}})
    job_id = await trigger(conn, OPERATOR, "one", "prices were wrong")
    job = await conn.fetchrow("select * from ingestd.job where id = $1", job_id)
    assert (job["kind"], job["args"], job["rank"], job["tags"], job["notes"]) == ("tick", {"n": 1}, -7, ["t"], "prices were wrong")
    assert (job["triggered_by"], job["correlation_id"], job["metadata"]) == ("cli", "corr-1", {"schedule": "one"})
    (audit,) = await latest_audit(conn, "schedule", "one")
    assert (audit["action"], audit["detail"]) == ("trigger", {"job_id": job_id, "reason": "prices were wrong"})
    assert await conn.fetchval("select count(*) from ingestd.slot") == 0


async def test_under_skip_a_second_trigger_is_refused_naming_the_running_job(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *"}})
    job_id = await trigger(conn, OPERATOR, "one")
    with pytest.raises(Conflict, match=str(job_id)) as caught:
        await trigger(conn, OPERATOR, "one")
    assert caught.value.current_state == "running"
    assert len(await latest_audit(conn, "schedule", "one")) == 1


async def test_of_many_triggers_at_once_under_skip_one_is_taken(dsn: str, conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *"}})

    async def press() -> int | None:
        own = await connect(dsn)
        try:
            return await trigger(own, OPERATOR, "one")
        except Conflict:
            return None
        finally:
            await own.close()

    answers = await asyncio.gather(*[press() for _ in range(8)])
    assert len([answer for answer in answers if answer is not None]) == 1
    assert await conn.fetchval("select count(*) from ingestd.job") == 1


async def test_a_slot_due_while_a_triggered_job_is_open_is_skipped(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, MINUTE)
    job_id = await trigger(conn, OPERATOR, "one")
    (slot,) = (await Firer().fire(conn)).recorded
    assert (slot.state, slot.reason) == ("skipped", f"job {job_id} of this schedule was still open")


async def test_under_queue_triggers_wait_in_line(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *", "overlap": "queue"}})
    await trigger(conn, OPERATOR, "one")
    await trigger(conn, OPERATOR, "one")
    assert [row["key"] for row in await conn.fetch("select key from ingestd.job")] == ["schedule:one"] * 2


async def test_a_misspelt_schedule_gets_a_suggestion(conn: asyncpg.Connection) -> None:
    await declare(conn, {"nightly": {"cron": "0 2 * * *"}})
    for attempt in (trigger(conn, OPERATOR, "nigthly"), pause(conn, OPERATOR, "nigthly"), resume(conn, OPERATOR, "nigthly")):
        with pytest.raises(NotFound, match='did you mean "nightly"'):
            await attempt
    with pytest.raises(NotFound, match='did you mean "nightly"'):
        await next_slots(conn, "nigthly")


async def test_pausing_and_resuming_are_audited_once_each(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    assert [await pause(conn, OPERATOR, "one", "migration"), await pause(conn, OPERATOR, "one")] == [True, False]
    (shown,) = await list_schedules(conn)
    assert (shown["paused"], shown["paused_by"]) == (True, "ada")
    assert [await resume(conn, OPERATOR, "one"), await resume(conn, OPERATOR, "one")] == [True, False]
    assert [row["action"] for row in await latest_audit(conn, "schedule", "one")] == ["resume", "pause"]


async def test_a_list_shows_rule_target_next_and_last(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m", "catch_up": "none"}, "two": {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}})
    await backdate(conn, timedelta(seconds=70), "one")
    recorded = await Firer().fire_all(conn)
    one, two = await list_schedules(conn)
    assert (two["rule"], two["timezone"], two["target"], two["last_slot"]) == (
        "cron 0 2 * * *",
        "Europe/Berlin",
        {"type": "job", "name": "tick"},
        None,
    )
    assert one["next_due_at"] > datetime.now(UTC) - MINUTE
    assert (one["last_slot"]["due_at"], one["last_slot"]["job_id"]) == (recorded[-1].due_at, recorded[-1].job_id)
    assert one["last_slot"]["job_state"] == (None if recorded[-1].job_id is None else "available")
    assert [row["name"] for row in await list_schedules(conn, "two")] == ["two"]


async def test_recent_slots_come_newest_first_with_the_state_of_their_job(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "overlap": "allow"}, "two": {"every": "1s"}})
    await backdate(conn, timedelta(seconds=6))
    await Firer().fire(conn)
    done = await conn.fetchval("select min(id) from ingestd.job where metadata ->> 'schedule' = 'one'")
    await conn.execute(
        """with gone as (delete from ingestd.job where id = $1 returning *)
           insert into ingestd.history (keep, state, duration_ms, id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at,
               created_at, key_strict, unique_until, args, attempts, tags, triggered_by)
           select 'ok', 'succeeded', 12, id, kind, queue_id, rank, 1, max_attempts, 0, run_at, due_at, created_at, false, 'finish', args,
               '[]', '{}', triggered_by from gone""",
        done,
    )
    slots = await recent_slots(conn, "one", 30)
    assert [slot["due_at"] for slot in slots] == sorted((slot["due_at"] for slot in slots), reverse=True)
    assert (slots[-1]["job_state"], slots[-1]["job_duration_ms"]) == ("succeeded", 12)
    assert {slot["job_state"] for slot in slots[:-1]} == {"available"}
    both = await recent_slots_of(conn, ["one", "two", "three"], 2)
    assert {name: len(found) for name, found in both.items()} == {"one": 2, "two": 2}


async def test_next_slots_carry_offset_and_note(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}})
    found = await next_slots(conn, "one", 2, datetime.fromisoformat("2027-03-27T12:00"))
    assert [slot.at.isoformat() for slot in found] == ["2027-03-28T03:00:00+02:00", "2027-03-29T02:30:00+02:00"]
    assert found[0].note is not None
    assert "does not exist" in found[0].note
    assert len(await next_slots(conn, "one", 5)) == 5
    for count in (0, 1001):
        with pytest.raises(InvalidInput):
            await next_slots(conn, "one", count)


async def test_a_slot_that_nobody_fires_degrades_health(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    checks = facts.facts().checks
    assert checks is not None
    assert (await checks(conn))[0].status == "healthy"
    await backdate(conn, timedelta(minutes=3))
    (check,) = await checks(conn)
    assert (check.name, check.status) == ("schedules", "degraded")
    assert "one has waited" in check.value
    await conn.execute("update ingestd.schedule set problem = 'no such zone', next_due_at = now() + interval '1 minute'")
    assert "no such zone" in (await checks(conn))[0].value


async def test_gauges_name_the_next_run_and_missed_slots(conn: asyncpg.Connection) -> None:
    quarter = (datetime.now(UTC) - timedelta(minutes=15)).minute
    await declare(conn, {"one": {"cron": f"{quarter} * * * *", "catch_up": "none"}})
    await backdate(conn, timedelta(hours=3))
    await Firer().fire_all(conn)
    found = {gauge.name: gauge for gauge in await facts.gauges(conn)}
    assert found["schedule_missed_slots"].value == 3
    assert found["schedule_missed_slots"].labels == {"schedule": "one"}
    assert found["schedule_next_run_timestamp_seconds"].value > datetime.now(UTC).timestamp()
