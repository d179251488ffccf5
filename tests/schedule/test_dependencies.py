"""Slots that depend on something else: run, skipped, or waiting for it, and never run twice over it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.app.successes import successes
from ingestd.errors import DatabaseUnreachable
from ingestd.events import Bus, Event, Notice, SlotFired, SlotMissed
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.pool import Database
from ingestd.postgres.session import connect
from ingestd.schedule import dependencies
from ingestd.schedule.dependencies import Dependency, Question, Verdict, judge, questions
from ingestd.schedule.firing import Firer
from ingestd.schedule.scheduler import WAITING_S, Scheduler, fire_once
from ingestd.schedule.store import waiting as store
from ingestd.schedule.store.waiting import Settlement
from ingestd.schedule.waiting import look_again
from tests.schedule import past
from tests.schedule.conftest import backdate, declare, slot_states

MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


async def yes(_conn: asyncpg.Connection, asked: Collection[Question]) -> set[Question]:
    return set(asked)


async def no(_conn: asyncpg.Connection, asked: Collection[Question]) -> set[Question]:
    return set()


async def due(conn: asyncpg.Connection, on_failure: str, age: timedelta = timedelta(seconds=2), **keys: Any) -> datetime:
    """Declare `report`, which depends on the import `prices`, and let a slot of it have come due so long ago; returns its time."""
    after = [{"import": "prices", "ok_within": "1h", "on_failure": on_failure}]
    await declare(conn, {"report": {"every": "1h", "catch_up": "latest", "after": after} | keys})
    # a rule whose slot is due just then
    slot: datetime = await conn.fetchval("select date_trunc('second', now()) - $1::interval", age)
    rule = "at " + slot.isoformat()
    await conn.execute(
        "update ingestd.schedule set rule = $1, since = $2, accounted_to = $2, next_due_at = $3", rule, slot - 5 * MINUTE, slot
    )
    return slot


# --- the decision


def test_a_success_satisfies_as_long_as_it_is_not_older_than_ok_within_at_the_slots_time() -> None:
    needed = Dependency("import", "prices", timedelta(hours=24), "skip")
    assert questions([needed], NOW) == {Question("import", "prices", NOW - timedelta(hours=24))}
    assert judge([needed], NOW, {needed.question(NOW)}) == Verdict("run")
    assert judge([needed], NOW, {needed.question(NOW - MINUTE)}) == Verdict("skip", "no success of import prices within 1d")


def test_one_that_skips_outweighs_one_that_waits_and_that_one_that_runs_all_the_same() -> None:
    skip, wait, run = (Dependency("job", name, timedelta(hours=1), name) for name in ("skip", "wait", "run"))  # type: ignore[arg-type]
    assert judge([run, wait, skip], NOW, set()) == Verdict("skip", "no success of job skip within 1h")
    assert judge([run, wait, skip], NOW, {skip.question(NOW)}) == Verdict("wait", "waits for a success of job wait within 1h")
    assert judge([run, wait], NOW, {wait.question(NOW)}) == Verdict("run", "ran without a success of job run within 1h")
    both = [wait, Dependency("workflow", "w", timedelta(minutes=5), "wait")]
    assert judge(both, NOW, set()).reason == "waits for a success of job wait within 1h and workflow w within 5m"


# --- the slot


async def test_a_slot_whose_dependency_has_succeeded_runs_as_any_other(conn: asyncpg.Connection) -> None:
    await due(conn, "skip")
    (slot,) = (await Firer(yes).fire(conn)).recorded
    assert (slot.state, slot.reason) == ("fired", None)


async def test_without_the_success_a_slot_is_skipped_with_the_reason(conn: asyncpg.Connection) -> None:
    await due(conn, "skip")
    (slot,) = (await Firer(no).fire(conn)).recorded
    assert (slot.state, slot.reason, slot.job_id) == ("skipped", "no success of import prices within 1h", None)
    assert await conn.fetchval("select count(*) from ingestd.job") == 0


async def test_run_runs_without_the_success_and_notes_it(conn: asyncpg.Connection) -> None:
    await due(conn, "run")
    (slot,) = (await Firer(no).fire(conn)).recorded
    assert (slot.state, slot.reason) == ("fired", "ran without a success of import prices within 1h")
    assert slot.job_id is not None


async def test_all_that_is_due_asks_once_for_what_it_depends_on(conn: asyncpg.Connection) -> None:
    calls: list[Collection[Question]] = []

    async def counted(_conn: asyncpg.Connection, asked: Collection[Question]) -> set[Question]:
        calls.append(asked)
        return set(asked)

    after = [{"import": "prices"}, {"workflow": "w"}]
    await declare(conn, {f"s{number}": {"every": "1h", "after": after} for number in range(20)} | {"free": {"every": "1h"}})
    await backdate(conn, timedelta(hours=1))
    assert len((await Firer(counted).fire(conn)).recorded) == 21
    assert [len(asked) for asked in calls] == [2]


# --- waiting


async def test_a_waiting_slot_has_no_job_until_the_success_is_there_and_then_one(conn: asyncpg.Connection) -> None:
    due_at = await due(conn, "wait", finish_within="2h", target_runtime="5m")
    (slot,) = (await Firer(no).fire(conn)).recorded
    assert (slot.state, slot.reason, slot.job_id) == ("waiting", "waits for a success of import prices within 1h", None)
    assert await look_again(conn, no) == ([], True)
    assert await conn.fetchval("select count(*) from ingestd.job") == 0
    (fired,), waits = await look_again(conn, yes)
    assert (fired.state, fired.reason, waits) == ("fired", None, False)
    row = await conn.fetchrow("select * from ingestd.slot")
    job = await conn.fetchrow("select * from ingestd.job")
    assert row["job_id"] == fired.job_id == job["id"]
    assert row["finish_by"] == due_at + timedelta(hours=2)
    assert (row["target_runtime"], row["start_by"]) == (timedelta(minutes=5), None)
    assert row["check_at"] > row["fired_at"]
    assert (job["due_at"], job["kind"], job["metadata"]["schedule"]) == (due_at, "tick", "report")
    assert await conn.fetchval("select last_job_id from ingestd.schedule") == fired.job_id
    assert await look_again(conn, yes) == ([], False)


async def test_a_slot_that_waited_for_long_is_late_with_the_reason(conn: asyncpg.Connection) -> None:
    await due(conn, "wait", timedelta(seconds=10))
    await Firer(no).fire(conn)
    await age_slots(conn, timedelta(minutes=12))
    (fired,), _ = await look_again(conn, yes)
    assert fired.state == "late"
    assert fired.reason is not None
    assert fired.reason.endswith("late: waited for a success of import prices within 1h")
    assert fired.reason.startswith("12m")


async def test_a_slot_that_waits_past_start_within_is_missed(conn: asyncpg.Connection) -> None:
    await due(conn, "wait", start_within="10m")
    await Firer(no).fire(conn)
    await age_slots(conn, timedelta(minutes=9))
    assert await look_again(conn, no) == ([], True)
    await age_slots(conn, timedelta(minutes=2))
    (missed,), waits = await look_again(conn, yes)
    assert (missed.state, waits) == ("missed", False)
    assert missed.reason == "could not start within 10m: waited for a success of import prices within 1h"


async def test_a_waiting_slot_gives_way_to_the_next_one_but_not_to_what_is_started_by_hand(conn: asyncpg.Connection) -> None:
    due_at = await due(conn, "wait", timedelta(seconds=5))
    await Firer(no).fire(conn)
    await conn.execute(
        """insert into ingestd.slot (schedule, due_at, state, job_id, triggered_by)
           values ('report', clock_timestamp(), 'fired', 1, 'cli')"""
    )
    assert await look_again(conn, no) == ([], True)
    following = due_at + timedelta(seconds=2)
    await conn.execute(
        "update ingestd.schedule set rule = $1, accounted_to = $2, next_due_at = $3", f"at {following.isoformat()}", due_at, following
    )
    (newer,) = (await Firer(no).fire(conn)).recorded
    assert (newer.due_at, newer.state) == (following, "waiting")
    (older,), waits = await look_again(conn, yes_but_for(following))
    assert (older.due_at, older.state, waits) == (due_at, "skipped", True)
    assert older.reason == f"gave way to the slot of {following.isoformat()}"
    (fired,), _ = await look_again(conn, yes)
    assert (fired.due_at, fired.state) == (following, "fired")


def yes_but_for(due_at: datetime) -> Any:
    async def answer(_conn: asyncpg.Connection, asked: Collection[Question]) -> set[Question]:
        return {one for one in asked if one.since != due_at - timedelta(hours=1)}

    return answer


async def test_pausing_or_removing_the_schedule_ends_the_wait(conn: asyncpg.Connection) -> None:
    await due(conn, "wait")
    await Firer(no).fire(conn)
    await conn.execute("update ingestd.schedule set paused_at = now(), paused_by = 'ada', pause_reason = 'stocktaking'")
    (slot,), _ = await look_again(conn, yes)
    assert (slot.state, slot.reason) == ("skipped", "paused by ada: stocktaking")
    await conn.execute("update ingestd.slot set state = 'waiting'; update ingestd.schedule set paused_until = now()")
    await conn.execute("update ingestd.schedule set enabled = false, turn = turn + 1")
    (slot,), _ = await look_again(conn, yes)
    assert (slot.state, slot.reason) == ("missed", "its schedule was disabled before it could run")
    await conn.execute("update ingestd.slot set state = 'waiting'")
    await declare(conn, {})
    (slot,), _ = await look_again(conn, yes)
    assert (slot.state, slot.reason) == ("missed", "its schedule was removed before it could run")
    await conn.execute("update ingestd.slot set state = 'waiting'; delete from ingestd.schedule")
    assert [one.state for one in (await look_again(conn, yes))[0]] == ["missed"]
    assert await conn.fetchval("select count(*) from ingestd.job") == 0


async def test_overlap_is_judged_when_the_wait_is_over(conn: asyncpg.Connection) -> None:
    await due(conn, "wait")
    await Firer(no).fire(conn)
    (job_id,) = await enqueue(conn, [NewJob("tick")])
    await conn.execute("update ingestd.schedule set last_job_id = $1", job_id)
    (slot,), _ = await look_again(conn, yes)
    assert (slot.state, slot.reason) == ("skipped", f"job {job_id} of this schedule was still open")


async def test_what_is_decided_about_a_schedule_that_has_moved_changes_nothing(conn: asyncpg.Connection) -> None:
    due_at = await due(conn, "wait")
    await Firer(no).fire(conn)
    turn = await conn.fetchval("select turn from ingestd.schedule")
    assert await store.settle(conn, [Settlement("report", due_at, turn - 1, "fired", None)]) == []
    # paused between the look and the statement
    await conn.execute("update ingestd.schedule set paused_at = now()")
    (slot,) = await store.settle(conn, [Settlement("report", due_at, turn, "fired", None)])
    assert (slot.state, slot.job_id) == ("skipped", None)


async def test_a_slot_that_two_nodes_find_ready_has_one_job(dsn: str, conn: asyncpg.Connection) -> None:
    due_at = await due(conn, "wait")
    await Firer(no).fire(conn)
    turn = await conn.fetchval("select turn from ingestd.schedule")
    ready = [Settlement("report", due_at, turn, "fired", None)]
    other = await connect(dsn)
    transaction = other.transaction()
    await transaction.start()
    assert len(await store.settle(other, ready)) == 1
    # the schedule is held by the other: passed by, without waiting for it
    async with asyncio.timeout(20):
        assert await store.settle(conn, ready) == []
    # and where only the slot is held, whoever comes second waits and finds it taken
    await transaction.rollback()
    await transaction_of_the_slot_alone(conn, other, ready)
    assert await conn.fetchval("select count(*) from ingestd.job") == 0
    await other.close()


async def transaction_of_the_slot_alone(conn: asyncpg.Connection, other: asyncpg.Connection, ready: list[Settlement]) -> None:
    transaction = other.transaction()
    await transaction.start()
    await other.execute("update ingestd.slot set state = 'skipped', reason = 'somebody else was quicker'")
    second = asyncio.create_task(store.settle(conn, ready))
    while not await other.fetchval("select exists (select from pg_locks where not granted)"):
        await asyncio.sleep(0)
    await transaction.commit()
    async with asyncio.timeout(20):
        assert await second == []


async def test_waiting_slots_are_fired_once_by_many_nodes_that_are_killed_meanwhile(dsn: str, conn: asyncpg.Connection) -> None:
    after = [{"import": "prices", "on_failure": "wait"}]
    await declare(conn, {f"s{number}": {"every": "1h", "after": after} for number in range(150)})
    await backdate(conn, timedelta(hours=1))
    await Firer(no).fire_all(conn)
    assert await conn.fetchval("select count(*) from ingestd.slot where state = 'waiting'") == 150
    ready: set[str] = set()

    async def some(other: asyncpg.Connection, asked: Collection[Question]) -> set[Question]:
        return set(asked) if ready else set()

    async def node() -> int:
        fired = 0
        while True:
            try:
                own = await connect(dsn, application_name="doomed")
            except DatabaseUnreachable:
                continue
            try:
                while await own.fetchval("select exists (select from ingestd.slot where state = 'waiting')"):
                    fired += len((await look_again(own, some))[0])
                await own.close()
                return fired
            except OUTAGE:
                own.terminate()

    async def reaper() -> None:
        for kills in range(40):
            if kills == 5:
                ready.add("now")
            await conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'doomed'")
            await asyncio.sleep(0.01)

    async with asyncio.timeout(60):
        await asyncio.gather(node(), node(), node(), reaper())
    slots, jobs, linked = await conn.fetchrow(
        """select (select count(*) from ingestd.slot where state in ('fired', 'late')), (select count(*) from ingestd.job),
                  (select count(distinct s.job_id) from ingestd.slot s join ingestd.job j on j.id = s.job_id and j.due_at = s.due_at)"""
    )
    assert (slots, jobs, linked) == (150, 150, 150)


async def test_whoever_cannot_ask_leaves_the_decision_to_the_scheduler(conn: asyncpg.Connection) -> None:
    await due(conn, "skip")
    (slot,) = (await Firer().fire(conn)).recorded
    assert (slot.state, slot.job_id) == ("waiting", None)
    (skipped,), _ = await look_again(conn, no)
    assert (skipped.state, skipped.reason) == ("skipped", "no success of import prices within 1h")


async def test_the_scheduler_looks_again_soon_and_tells_what_became_of_it(db: Database, conn: asyncpg.Connection) -> None:
    await due(conn, "wait", start_within="10m")
    told: list[Event] = []
    bus = Bus()
    bus.subscribe(told.append)
    scheduler = Scheduler(db, bus, successes)
    assert await scheduler.poll() <= WAITING_S
    assert await slot_states(conn, "report") == ["waiting"]
    await past.load(conn, "prices", await conn.fetchval("select now()"))
    assert await scheduler.poll() > WAITING_S
    assert [type(event) for event in told] == [SlotFired]
    await conn.execute("update ingestd.slot set state = 'waiting', job_id = null, due_at = due_at - interval '1 hour'")
    await scheduler.poll()
    assert [type(event) for event in told] == [SlotFired, SlotMissed]


async def test_a_past_that_cannot_be_looked_up_keeps_nobody_else_from_running(
    db: Database, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "LOOK_UP_S", 0.1)
    blocked = [True]

    async def slow(other: asyncpg.Connection, asked: Collection[Question]) -> set[Question]:
        await other.execute("select pg_sleep($1)", 60.0 if blocked[0] else 0.0)
        return set(asked)

    await declare(conn, {"report": {"every": "1h", "after": [{"import": "prices"}]}, "free": {"every": "1h"}})
    await backdate(conn, timedelta(hours=1))
    told: list[Event] = []
    bus = Bus()
    bus.subscribe(told.append)
    scheduler = Scheduler(db, bus, slow)
    async with asyncio.timeout(30):
        await scheduler.poll()
        await scheduler.poll()
    assert await slot_states(conn, "free") in (["fired"], ["late"])
    assert await slot_states(conn, "report") == ["waiting"]
    assert len([event for event in told if isinstance(event, Notice)]) == 1
    blocked.clear()
    blocked.append(False)
    await scheduler.poll()
    assert await slot_states(conn, "report") in (["fired"], ["late"])


async def test_what_was_fired_is_told_though_what_depends_on_something_could_not_be(conn: asyncpg.Connection) -> None:
    await declare(conn, {"report": {"every": "1h", "after": [{"import": "prices"}]}, "free": {"every": "1h"}})
    await backdate(conn, timedelta(hours=1))

    async def broken(_conn: asyncpg.Connection, asked: Collection[Question]) -> set[Question]:
        raise RuntimeError("a bug")

    firer = Firer(broken)
    first = await firer.fire(conn)
    assert ([slot.schedule for slot in first.recorded], first.more) == (["free"], True)
    with pytest.raises(RuntimeError):
        await firer.fire(conn)
    assert [slot.schedule for slot in (await Firer(yes).fire(conn)).recorded] == ["report"]


async def test_firing_once_ends_waits_as_well(db: Database, conn: asyncpg.Connection) -> None:
    await due(conn, "wait")
    assert await fire_once(db, Bus(), successes) == 0
    await past.load(conn, "prices", await conn.fetchval("select now()"))
    assert await fire_once(db, Bus(), successes) == 1


async def age_slots(conn: asyncpg.Connection, by: timedelta) -> None:
    await conn.execute("update ingestd.slot set due_at = due_at - $1::interval", by)
