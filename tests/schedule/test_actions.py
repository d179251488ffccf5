"""What people do to schedules, and what they see of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.access.store import latest_audit
from ingestd.errors import Conflict, InvalidInput, NotFound, TooOften
from ingestd.jobs.model import Slot
from ingestd.postgres.session import connect
from ingestd.schedule.actions import MOST_TRIGGERS, pause, resume, skip_next, trigger, unskip
from ingestd.schedule.firing import Firer
from ingestd.schedule.preview import next_slots
from ingestd.schedule.rules import parse_rule
from ingestd.schedule.slots import Policy, plan
from ingestd.schedule.store import firing
from ingestd.schedule.store.reads import list_schedules, recent_slots_of
from tests.schedule.conftest import backdate, declare
from tests.support import eventually

OPERATOR = Actor("ada", "operator", "cli", "corr-1")
MINUTE = timedelta(minutes=1)


async def test_triggering_enqueues_the_target_now_and_is_audited(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *", "args": {"n": 1}, "priority": 7, "tags": ["t"]}})
    job_id = await trigger(conn, OPERATOR, "one", "prices were wrong")
    job = await conn.fetchrow("select * from ingestd.job where id = $1", job_id)
    assert (job["kind"], job["args"], job["rank"], job["tags"], job["notes"]) == ("tick", {"n": 1}, -7, ["t"], "prices were wrong")
    assert (job["triggered_by"], job["correlation_id"], job["metadata"]["schedule"]) == ("cli", "corr-1", "one")
    (audit,) = await latest_audit(conn, "schedule", "one")
    assert (audit["action"], audit["detail"]) == ("trigger", {"job_id": job_id, "reason": "prices were wrong"})


async def test_what_was_started_by_hand_is_a_slot_of_its_own_with_its_deadlines(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *", "start_within": "10m", "finish_within": "2h", "target_runtime": "1h"}})
    job_id = await trigger(conn, OPERATOR, "one", "prices were wrong")
    slot = await conn.fetchrow("select * from ingestd.slot")
    assert (slot["schedule"], slot["state"], slot["triggered_by"], slot["job_id"]) == ("one", "fired", "cli", job_id)
    assert slot["reason"] == "started by ada: prices were wrong"
    assert (slot["start_by"] - slot["due_at"], slot["finish_by"] - slot["due_at"]) == (10 * MINUTE, 120 * MINUTE)
    assert slot["target_runtime"] == 60 * MINUTE
    assert slot["check_at"] is not None
    job = await conn.fetchrow("select metadata from ingestd.job")
    assert job["metadata"] == {"schedule": "one", "due_at": slot["due_at"].isoformat(), "catch_up": False}
    assert Slot.read(job["metadata"]) == Slot("one", slot["due_at"])


async def test_a_slot_started_by_hand_in_a_month_without_a_partition_makes_it(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *"}})
    (month,) = await conn.fetchrow("select 'ingestd.slot_' || to_char(now() at time zone 'UTC', 'YYYYMM')")
    await conn.execute(f"drop table {month}")
    await trigger(conn, OPERATOR, "one")
    assert await conn.fetchval("select count(*) from ingestd.slot") == 1


async def test_a_schedule_is_started_by_hand_ten_times_a_minute_at_most(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *", "overlap": "allow"}})
    for _ in range(MOST_TRIGGERS):
        await trigger(conn, OPERATOR, "one")
    with pytest.raises(TooOften, match='"one" was started by hand 10 times within a minute') as caught:
        await trigger(conn, OPERATOR, "one")
    assert 0 < caught.value.retry_after_s <= 60
    assert await conn.fetchval("select count(*) from ingestd.job") == MOST_TRIGGERS
    assert len(await latest_audit(conn, "schedule", "one")) == MOST_TRIGGERS
    await conn.execute("update ingestd.schedule set triggers[1] = triggers[1] - interval '1 minute'")
    await trigger(conn, OPERATOR, "one")
    assert await conn.fetchval("select cardinality(triggers) from ingestd.schedule") == MOST_TRIGGERS, "those of old are forgotten"
    assert await conn.fetchval("select count(distinct due_at) from ingestd.slot") == MOST_TRIGGERS + 1


async def test_under_skip_a_second_trigger_is_refused_naming_the_running_job(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *"}})
    job_id = await trigger(conn, OPERATOR, "one")
    with pytest.raises(Conflict, match=str(job_id)) as caught:
        await trigger(conn, OPERATOR, "one")
    assert caught.value.current_state == "running"
    assert len(await latest_audit(conn, "schedule", "one")) == 1


async def test_a_workflow_that_is_running_already_is_not_started_beside_itself(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *", "workflow": "market", "job": None, "overlap": "allow"}})
    await conn.execute("update ingestd.schedule set kind = 'workflow', args = '{\"workflow\": \"market\"}'")
    run = await conn.fetchval(
        """insert into ingestd.workflow_run (workflow, definition, overlap, triggered_by) values ('market', '{}', 'skip', 'cli')
        returning id"""
    )
    with pytest.raises(Conflict, match=f"run {run} of workflow market"):
        await trigger(conn, OPERATOR, "one")
    await conn.execute("update ingestd.workflow_run set overlap = 'allow'")
    await trigger(conn, OPERATOR, "one")


async def test_a_skipped_slot_and_a_pause_do_what_they_say_when_slots_come_due(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "overlap": "allow"}, "two": {"every": "1s", "overlap": "allow"}})
    due_at = await skip_next(conn, OPERATOR, "one", "stocktaking")
    await pause(conn, OPERATOR, "two", "migration", lasting=timedelta(hours=1))
    firer = Firer()

    async def both() -> bool:
        await firer.fire(conn)
        return bool(await conn.fetchval("select count(*) = 2 from ingestd.slot where state = 'skipped' and due_at = $1", due_at))

    await eventually(both)
    reasons = {
        row["schedule"]: row["reason"] for row in await conn.fetch("select schedule, reason from ingestd.slot where due_at = $1", due_at)
    }
    assert reasons == {"one": "skipped once by ada: stocktaking", "two": "paused by ada: migration"}
    one, two = await list_schedules(conn)
    assert (one["skip_at"], one["skip_by"], two["paused"]) == (None, None, True)


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


async def test_starts_by_hand_that_a_clock_set_back_has_put_ahead_limit_nobody(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *", "overlap": "allow"}})
    await conn.execute("update ingestd.schedule set triggers = array_fill(now() + interval '1 day', array[10])")
    await trigger(conn, OPERATOR, "one")
    assert await conn.fetchval("select cardinality(triggers) from ingestd.schedule") == 1


async def test_many_hands_at_once_share_one_limit_and_no_slot(dsn: str, conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *", "overlap": "allow"}})

    async def press() -> list[bool]:
        own = await connect(dsn)
        taken = []
        for _ in range(4):
            try:
                await trigger(own, OPERATOR, "one")
                taken.append(True)
            except TooOften:
                taken.append(False)
        await own.close()
        return taken

    answers = [answer for answers in await asyncio.gather(*[press() for _ in range(6)]) for answer in answers]
    assert (len(answers), sum(answers)) == (24, MOST_TRIGGERS)
    counts = await conn.fetchrow("select count(*), count(distinct due_at), count(distinct job_id) from ingestd.slot")
    assert tuple(counts) == (MOST_TRIGGERS,) * 3
    assert len(await latest_audit(conn, "schedule", "one")) == MOST_TRIGGERS


async def test_a_plan_made_before_a_trigger_fires_nothing(conn: asyncpg.Connection) -> None:
    """Its statement may have begun before the trigger's commit, and would not see its job."""
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, MINUTE)
    (row,) = await firing.due(conn, 10)
    made = plan(parse_rule(row["rule"], row["timezone"]), row["accounted_to"], row["now"], Policy())
    await trigger(conn, OPERATOR, "one")
    assert await firing.fire(conn, [("one", row["turn"], made)]) == []
    assert [slot.state for slot in (await Firer().fire(conn)).recorded] == ["skipped"]


async def test_triggers_and_slots_that_come_due_meanwhile_never_run_beside_each_other(dsn: str, conn: asyncpg.Connection) -> None:
    """Under skip: whoever is second sees the job of the first."""
    await declare(conn, {"one": {"every": "1s"}})
    await conn.execute("update ingestd.schedule set triggers = '{}'")
    rounds = 15

    async def fire(own: asyncpg.Connection) -> None:
        await Firer().fire(own)

    async def press(own: asyncpg.Connection) -> None:
        with suppress(Conflict):
            await trigger(own, OPERATOR, "one")

    first, second = await connect(dsn), await connect(dsn)
    for _ in range(rounds):
        await backdate(conn, timedelta(seconds=1.5))
        await asyncio.gather(fire(first), press(second))
        assert await conn.fetchval("select count(*) from ingestd.job") == 1
        await conn.execute("delete from ingestd.job")
        await conn.execute("delete from ingestd.slot")
        await conn.execute("update ingestd.schedule set triggers = '{}'")
    await first.close()
    await second.close()


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
    for act in (trigger, pause, resume, skip_next, unskip):
        with pytest.raises(NotFound, match='did you mean "nightly"'):
            await act(conn, OPERATOR, "nigthly")
    with pytest.raises(NotFound, match='did you mean "nightly"'):
        await next_slots(conn, "nigthly")


async def test_pausing_and_resuming_are_audited_once_each(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    assert [await pause(conn, OPERATOR, "one", "migration"), await pause(conn, OPERATOR, "one")] == [True, False]
    (shown,) = await list_schedules(conn)
    assert (shown["paused"], shown["paused_by"]) == (True, "ada")
    assert [await resume(conn, OPERATOR, "one"), await resume(conn, OPERATOR, "one")] == [True, False]
    assert [row["action"] for row in await latest_audit(conn, "schedule", "one")] == ["resume", "pause"]


async def test_a_schedule_that_was_ahead_goes_on_from_now_and_runs_nothing_twice(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1h"}})
    hour = await conn.fetchval("select date_bin('1 hour', now(), 'epoch')")
    missed, fired = hour + timedelta(hours=1), hour + timedelta(hours=2)
    await firing.make_partition(conn, missed)
    await firing.make_partition(conn, fired)
    await conn.execute("insert into ingestd.slot (schedule, due_at, state, reason) values ('one', $1, 'missed', 'downtime')", missed)
    await conn.execute("insert into ingestd.slot (schedule, due_at, state, job_id) values ('one', $1, 'late', 77)", fired)
    await conn.execute(
        "update ingestd.schedule set accounted_to = now() + interval '1 year', since = now() + interval '1 day', "
        "next_due_at = date_bin('1 hour', now() + interval '1 year 1 hour', 'epoch')"
    )
    assert not await resume(conn, OPERATOR, "one")
    assert (await next_slots(conn, "one", 1))[0].at > fired + timedelta(days=300), "nothing is told to be next that will not fire"
    assert await resume(conn, OPERATOR, "one", from_now=True)
    assert not await resume(conn, OPERATOR, "one", from_now=True)
    row = await conn.fetchrow("select next_due_at, accounted_to <= now() and since <= now() as back from ingestd.schedule")
    assert (row["next_due_at"], row["back"]) == (missed, True)
    assert await conn.fetchval("select array_agg(due_at) from ingestd.slot") == [fired]
    assert [found["action"] for found in await latest_audit(conn, "schedule", "one")] == ["resume"]


async def test_a_pause_until_a_moment_is_over_by_itself(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}})
    assert await pause(conn, OPERATOR, "one", "stocktaking", until=datetime.fromisoformat("2090-01-31T06:00"))
    (shown,) = await list_schedules(conn)
    assert (shown["paused"], shown["paused_until"], shown["pause_reason"]) == (True, datetime(2090, 1, 31, 5, tzinfo=UTC), "stocktaking")
    await conn.execute("update ingestd.schedule set paused_until = now()")
    (shown,) = await list_schedules(conn)
    assert (shown["paused"], shown["paused_until"], shown["pause_reason"], shown["paused_by"]) == (False, None, None, None)
    assert not await resume(conn, OPERATOR, "one")
    assert await pause(conn, OPERATOR, "one"), "the old pause is none"
    (shown,) = await list_schedules(conn)
    assert (shown["paused_until"], shown["pause_reason"]) == (None, None)


async def test_a_moment_in_a_zone_that_this_machine_has_lost_is_refused(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1h"}})
    await conn.execute("update ingestd.schedule set timezone = 'Mars/Phobos'")
    with pytest.raises(InvalidInput, match='cannot be read: "Mars/Phobos" is not a time zone'):
        await pause(conn, OPERATOR, "one", until=datetime.fromisoformat("2090-01-31T06:00"))
    assert await pause(conn, OPERATOR, "one", lasting=timedelta(hours=1))


async def test_pausing_again_changes_until_when_and_keeps_the_rest(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1h"}})
    assert await pause(conn, OPERATOR, "one", "migration", lasting=timedelta(hours=2))
    (first,) = await list_schedules(conn)
    until = first["paused_until"] + timedelta(hours=1)
    assert [await pause(conn, OPERATOR, "one", until=until), await pause(conn, OPERATOR, "one", until=until)] == [True, False]
    (shown,) = await list_schedules(conn)
    assert (shown["paused_at"], shown["paused_until"], shown["pause_reason"]) == (first["paused_at"], until, "migration")
    assert await pause(conn, Actor("bob", "operator", "api"), "one", "still migrating")
    (shown,) = await list_schedules(conn)
    assert (shown["paused_until"], shown["pause_reason"], shown["paused_by"]) == (None, "still migrating", "bob")
    newest, *_, oldest = await latest_audit(conn, "schedule", "one")
    assert newest["detail"] == {"reason": "still migrating", "until": None}
    assert oldest["detail"] == {"reason": "migration", "until": first["paused_until"].isoformat()}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"until": datetime(2001, 1, 1, tzinfo=UTC)}, "would be over already"),
        ({"lasting": timedelta()}, "longer than 0s"),
        ({"lasting": timedelta(days=3_000_000)}, "beyond the calendar"),
        ({"until": datetime(2090, 1, 1, tzinfo=UTC), "lasting": MINUTE}, "not both"),
    ],
)
async def test_a_pause_that_makes_no_sense_is_refused(conn: asyncpg.Connection, how: dict[str, Any], words: str) -> None:
    await declare(conn, {"one": {"every": "1h"}})
    with pytest.raises(InvalidInput, match=words):
        await pause(conn, OPERATOR, "one", **how)
    assert await latest_audit(conn, "schedule", "one") == []


async def test_the_next_slot_is_passed_over_once_and_that_may_be_undone(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1h"}})
    (before,) = await list_schedules(conn)
    due_at = await skip_next(conn, OPERATOR, "one", "stocktaking")
    assert due_at == before["next_due_at"]
    assert await skip_next(conn, OPERATOR, "one") == due_at
    (shown,) = await list_schedules(conn)
    assert (shown["skip_at"], shown["skip_by"], shown["skip_reason"]) == (due_at, "ada", "stocktaking")
    assert [await unskip(conn, OPERATOR, "one"), await unskip(conn, OPERATOR, "one")] == [True, False]
    (shown,) = await list_schedules(conn)
    assert (shown["skip_at"], shown["skip_by"], shown["skip_reason"]) == (None, None, None)
    assert [row["action"] for row in await latest_audit(conn, "schedule", "one")] == ["unskip", "skip_next"]


async def test_behind_a_pause_the_first_slot_that_would_fire_is_passed_over(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *"}})
    await pause(conn, OPERATOR, "one", until=datetime(2090, 1, 31, 2, tzinfo=UTC))
    assert await skip_next(conn, OPERATOR, "one") == datetime(2090, 1, 31, 2, tzinfo=UTC)


async def test_where_no_slot_would_fire_none_can_be_skipped(conn: asyncpg.Connection) -> None:
    await declare(conn, {"off": {"every": "1h", "enabled": False}, "over": {"at": "2001-01-01T00:00:00Z"}, "held": {"every": "1h"}})
    await pause(conn, OPERATOR, "held")
    for name, words in (("off", "is disabled"), ("over", "is over"), ("held", "is paused until it is resumed")):
        with pytest.raises(Conflict, match=words):
            await skip_next(conn, OPERATOR, name)


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
    slots = (await recent_slots_of(conn, ["one"], 30))["one"]
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
