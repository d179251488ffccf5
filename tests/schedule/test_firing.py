"""Slots in a real Postgres: each recorded once whoever fires, with its job in the same statement."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ingestd.errors import DatabaseUnreachable
from ingestd.events import Bus, Event, Notice, SlotFired, SlotMissed
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.session import connect
from ingestd.schedule.firing import Firer, announce
from ingestd.schedule.slots import Plan, PlannedSlot
from ingestd.schedule.store import firing as store
from tests.schedule.conftest import backdate, declare, slot_states

MINUTE = timedelta(minutes=1)


async def test_many_nodes_at_once_make_one_job_a_slot(dsn: str, conn: asyncpg.Connection) -> None:
    await declare(conn, {f"s{number}": {"every": "1s", "overlap": "allow"} for number in range(50)})
    await backdate(conn, timedelta(seconds=10))
    until = await conn.fetchval("select now() + interval '1.5 seconds'")

    async def node() -> int:
        own = await connect(dsn)
        firer, fired = Firer(), 0
        while await store.now(own) < until:
            fired += len((await firer.fire(own)).recorded)
        await own.close()
        return fired

    shares = await asyncio.gather(node(), node(), node())
    slots, jobs, linked, steps = await conn.fetchrow(
        """select (select count(*) from ingestd.slot where state = 'fired'), (select count(*) from ingestd.job),
                  (select count(distinct s.job_id) from ingestd.slot s join ingestd.job j on j.id = s.job_id and j.due_at = s.due_at),
                  (select array_agg(distinct n) from (select count(*) n from ingestd.slot group by schedule) c)"""
    )
    assert slots == jobs == linked == sum(shares)
    assert min(steps) >= 10
    gaps = await conn.fetchval(
        """select count(*) from (select due_at - lag(due_at) over (partition by schedule order by due_at) as step from ingestd.slot) g
           where step <> interval '1 second'"""
    )
    assert gaps == 0


async def test_a_node_killed_while_it_fires_loses_and_doubles_nothing(dsn: str, conn: asyncpg.Connection) -> None:
    await declare(conn, {f"s{number}": {"every": "1s", "overlap": "allow"} for number in range(30)})
    await backdate(conn, timedelta(seconds=20))
    until = await conn.fetchval("select now() + interval '1.5 seconds'")

    async def doomed() -> None:
        while True:
            try:
                own = await connect(dsn, application_name="doomed")
            except DatabaseUnreachable:
                continue  # killed while it was being opened
            try:
                firer = Firer()
                while await store.now(own) < until:
                    await firer.fire(own)
                await own.close()
                return
            except OUTAGE:
                own.terminate()

    async def reaper() -> None:
        while await store.now(conn) < until:
            await conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'doomed'")
            await asyncio.sleep(0.02)

    await asyncio.gather(doomed(), doomed(), doomed(), reaper())
    await Firer().fire_all(conn)
    bad = await conn.fetchval(
        """select count(*) from (select due_at - lag(due_at) over (partition by schedule order by due_at) as step from ingestd.slot) g
           where step <> interval '1 second'"""
    )
    orphans = await conn.fetchval(
        """select count(*) from ingestd.slot s full join ingestd.job j on j.id = s.job_id and j.due_at = s.due_at
           where s.job_id is null or j.id is null"""
    )
    assert (bad, orphans) == (0, 0)


async def test_a_slot_and_its_job_are_there_together_or_not_at_all(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, MINUTE, "one")
    await conn.execute("alter table ingestd.job add constraint broken check (kind <> 'tick')")
    with pytest.raises(asyncpg.CheckViolationError):
        await Firer().fire(conn)
    assert await slot_states(conn, "one") == []
    await conn.execute("alter table ingestd.job drop constraint broken")
    assert len((await Firer().fire(conn)).recorded) == 1


async def test_the_job_knows_its_slot(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m", "args": {"supplier": "acme"}, "priority": "high", "tags": ["prices"], "catch_up": "all"}})
    await backdate(conn, timedelta(seconds=200))
    await Firer().fire(conn)
    first, *_, last = await conn.fetch("select * from ingestd.job order by id")
    slot = await conn.fetchrow("select * from ingestd.slot where job_id = $1", first["id"])
    assert (first["kind"], first["args"], first["rank"], first["tags"]) == ("tick", {"supplier": "acme"}, -10, ["prices"])
    assert first["due_at"] == slot["due_at"] < first["run_at"]
    assert first["triggered_by"] == slot["triggered_by"] == "catch_up"
    assert (first["metadata"]["schedule"], first["metadata"]["catch_up"]) == ("one", True)
    assert first["correlation_id"] != last["correlation_id"]
    assert first["id"] < last["id"]
    assert first["due_at"] < last["due_at"]


async def test_firing_wakes_the_nodes_once_a_queue(dsn: str, conn: asyncpg.Connection) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await conn.add_listener("ingestd_job", lambda *args: heard.put_nowait(args[3]))
    await declare(conn, {f"s{number}": {"every": "1m", "catch_up": "latest"} for number in range(5)})
    await backdate(conn, MINUTE)
    other = await connect(dsn)
    await Firer().fire(other)
    await other.close()
    queue = await conn.fetchval("select id from ingestd.queue where name = 'default'")
    assert await asyncio.wait_for(heard.get(), 60) == str(queue)
    assert heard.empty()


async def test_no_clock_but_the_databases_makes_a_slot_due(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1h"}})
    ahead = datetime.now(UTC) + timedelta(minutes=2)
    early = Plan((PlannedSlot(ahead, "fired"),), ahead, ahead + MINUTE, 1)
    turn = await conn.fetchval("select turn from ingestd.schedule")
    assert await store.fire(conn, [("one", turn, early)]) == []
    # even with the schedule itself due, a slot of the future stays out
    await backdate(conn, MINUTE)
    reaching = Plan((PlannedSlot(ahead, "fired"),), datetime.now(UTC) - MINUTE, ahead, 1)
    assert await store.fire(conn, [("one", turn + 1, reaching)]) == []
    assert await conn.fetchval("select count(*) from ingestd.job") == 0


async def test_a_plan_made_before_a_reload_changes_nothing(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "overlap": "allow"}})
    await backdate(conn, timedelta(seconds=5))
    (row,) = await store.due(conn, 10)
    of_the_old_rule = Firer()._plan(row)
    await declare(conn, {"one": {"every": "1h", "overlap": "allow"}})
    await backdate(conn, timedelta(seconds=5))
    await conn.execute("delete from ingestd.slot")
    before = await conn.fetchrow("select turn, accounted_to, next_due_at from ingestd.schedule")
    assert await store.fire(conn, [("one", row["turn"], of_the_old_rule)]) == []
    assert await conn.fetchrow("select turn, accounted_to, next_due_at from ingestd.schedule") == before


async def test_a_schedule_that_another_node_holds_is_passed_by_without_waiting(dsn: str, conn: asyncpg.Connection) -> None:
    await declare(conn, {"held": {"every": "1s"}, "free": {"every": "1s"}})
    await backdate(conn, timedelta(seconds=3))
    other = await connect(dsn)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("select from ingestd.schedule where name = 'held' for update")
    async with asyncio.timeout(60):
        recorded = await Firer().fire_all(conn)
    assert {slot.schedule for slot in recorded} == {"free"}
    await transaction.rollback()
    await other.close()
    assert {slot.schedule for slot in (await Firer().fire(conn)).recorded} >= {"held"}


async def test_a_clock_that_steps_back_fires_nothing_twice(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "overlap": "allow"}})
    await backdate(conn, timedelta(seconds=5))
    fired = len((await Firer().fire(conn)).recorded)
    # as if the database's clock had been a minute ahead while it fired: what it accounted for lies in the future now
    await conn.execute("update ingestd.schedule set accounted_to = accounted_to + $1, next_due_at = next_due_at + $1", MINUTE)
    assert (await Firer().fire(conn)).recorded == []
    assert await conn.fetchval("select count(*) from ingestd.job") == fired


# --- overlap


async def test_skip_records_a_slot_as_skipped_while_the_last_job_is_open(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, MINUTE)
    (fired,) = (await Firer().fire(conn)).recorded
    await backdate(conn, timedelta(minutes=1))
    await conn.execute("delete from ingestd.slot")
    (skipped,) = (await Firer().fire(conn)).recorded
    assert (skipped.state, skipped.job_id) == ("skipped", None)
    assert skipped.reason == f"job {fired.job_id} of this schedule was still open"
    await conn.execute("delete from ingestd.job; delete from ingestd.slot")
    await backdate(conn, timedelta(minutes=1))
    assert [slot.state for slot in (await Firer().fire(conn)).recorded] in (["fired"], ["late"])


async def test_skip_counts_a_workflow_as_open_until_its_run_is_over(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, MINUTE)
    (fired,) = (await Firer().fire(conn)).recorded
    await conn.execute(
        "insert into ingestd.workflow_run (workflow, definition, job_id, triggered_by) values ('w', '{}', $1, 'schedule')", fired.job_id
    )
    await conn.execute("delete from ingestd.job; delete from ingestd.slot")
    await backdate(conn, MINUTE)
    assert [slot.state for slot in (await Firer().fire(conn)).recorded] == ["skipped"]


async def test_skip_lets_one_of_several_slots_due_at_once_run(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s"}})
    await backdate(conn, timedelta(seconds=4))
    states = [slot.state for slot in (await Firer().fire(conn)).recorded]
    assert states[0] == "fired"
    assert set(states[1:]) == {"skipped"}


async def test_queue_lets_every_slot_run_one_at_a_time(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "overlap": "queue"}})
    await backdate(conn, timedelta(seconds=4))
    assert {slot.state for slot in (await Firer().fire(conn)).recorded} == {"fired"}
    jobs = await conn.fetch("select key, parked, due_at from ingestd.job order by id")
    assert {(job["key"], job["parked"]) for job in jobs} == {("schedule:one", 2)}
    assert [job["due_at"] for job in jobs] == sorted(job["due_at"] for job in jobs)


async def test_allow_lets_every_slot_run_at_once(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "overlap": "allow"}})
    await backdate(conn, timedelta(seconds=4))
    await Firer().fire(conn)
    assert {row["parked"] for row in await conn.fetch("select parked from ingestd.job")} == {0}
    assert await conn.fetchval("select count(*) from ingestd.job") >= 4


# --- downtime


@pytest.mark.parametrize(
    ("catch_up", "jobs"),
    [("none", 0), ("latest", 1), ("all", 5)],
)
async def test_catch_up_decides_what_becomes_of_downtime(conn: asyncpg.Connection, catch_up: str, jobs: int) -> None:
    # a quarter of an hour from every slot, so that none is on time
    quarter = (await store.now(conn) - timedelta(minutes=15)).minute
    await declare(conn, {"one": {"cron": f"{quarter} * * * *", "catch_up": catch_up}})
    await backdate(conn, timedelta(hours=5))
    await Firer().fire_all(conn)
    assert await conn.fetchval("select count(*) from ingestd.job") == jobs
    assert await slot_states(conn, "one") == ["missed"] * (5 - jobs) + ["late"] * jobs


async def test_catching_up_on_all_slots_waits_in_line_even_under_skip(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m", "catch_up": "all"}})
    await backdate(conn, timedelta(minutes=6))
    await Firer().fire_all(conn)
    assert "skipped" not in (await slot_states(conn, "one"))[:-1]
    keys = [row["key"] for row in await conn.fetch("select key from ingestd.job where triggered_by = 'catch_up'")]
    assert len(keys) >= 5
    assert set(keys) == {"schedule:one"}


async def test_a_slot_found_after_start_within_is_missed_with_the_reason(conn: asyncpg.Connection) -> None:
    quarter = (await store.now(conn) - timedelta(minutes=15)).minute
    await declare(conn, {"one": {"cron": f"{quarter} * * * *", "start_within": "10m"}})
    await backdate(conn, timedelta(minutes=20))
    (missed,) = (await Firer().fire(conn)).recorded
    assert (missed.state, missed.reason) == ("missed", "could not start within 10m")


async def test_no_slot_is_computed_before_since(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "overlap": "allow"}})
    await backdate(conn, timedelta(seconds=10))
    since = await conn.fetchval("update ingestd.schedule set since = now() - interval '4 seconds' returning since")
    await Firer().fire(conn)
    assert await conn.fetchval("select min(due_at) > $1 from ingestd.slot", since)


async def test_a_year_of_downtime_finds_its_partitions_and_stays_small(conn: asyncpg.Connection) -> None:
    await declare(conn, {"daily": {"cron": "0 3 * * *"}, "minutely": {"every": "1m", "overlap": "allow"}})
    await backdate(conn, timedelta(days=400), "daily")
    await backdate(conn, timedelta(days=40), "minutely")
    await Firer().fire_all(conn)
    rows, slots = await conn.fetchrow("select count(*), sum(slots) from ingestd.slot where schedule = 'minutely'")
    assert slots in (40 * 1440, 40 * 1440 + 1)
    assert rows < 1500
    assert await conn.fetchval("select sum(slots) from ingestd.slot where schedule = 'daily'") in (400, 401)
    assert await conn.fetchval("select count(*) from ingestd.job") == 2


async def test_slots_of_this_moment_do_not_wait_behind_a_long_gap(conn: asyncpg.Connection) -> None:
    await declare(conn, {"behind": {"every": "1s"}, "punctual": {"every": "1s"}})
    await backdate(conn, timedelta(days=1), "behind")
    await backdate(conn, timedelta(seconds=2), "punctual")
    first = await Firer().fire(conn)
    assert first.more
    assert "punctual" in {slot.schedule for slot in first.recorded}


# --- trouble, telling


@pytest.mark.parametrize(
    ("broken", "mended"),
    [("timezone = 'Mars/Olympus'", "timezone = 'UTC'"), ("""after = '[{"name": 3}]'""", "after = '[]'")],
)
async def test_a_rule_that_cannot_be_computed_is_put_off_and_holds_up_nobody(conn: asyncpg.Connection, broken: str, mended: str) -> None:
    await declare(conn, {"broken": {"every": "1m"}, "sound": {"every": "1m"}})
    await backdate(conn, MINUTE)
    await conn.execute(f"update ingestd.schedule set {broken} where name = 'broken'")
    done = await Firer().fire(conn)
    assert [slot.schedule for slot in done.recorded] == ["sound"]
    assert done.problems[0][0] == "broken"
    assert await conn.fetchval("select problem from ingestd.schedule where name = 'broken'")
    assert await conn.fetchval("select next_due_at > now() from ingestd.schedule where name = 'broken'")
    # healed, it finds the slot that it owed
    await conn.execute(f"update ingestd.schedule set {mended}, next_due_at = now() where name = 'broken'")
    assert [slot.schedule for slot in (await Firer().fire(conn)).recorded] == ["broken"]
    assert await conn.fetchval("select problem from ingestd.schedule where name = 'broken'") is None


async def test_fired_slots_are_told_one_by_one_and_a_gap_once(conn: asyncpg.Connection) -> None:
    await declare(conn, {"gap": {"every": "1m"}, "lively": {"every": "1s", "overlap": "allow"}})
    await backdate(conn, timedelta(hours=4), "gap")
    await backdate(conn, timedelta(seconds=3), "lively")
    told: list[Event] = []
    bus = Bus()
    bus.subscribe(told.append)
    announce(bus, await Firer().fire_all(conn), [("odd", "no such zone")])
    assert len([event for event in told if isinstance(event, SlotFired) and event.schedule == "lively"]) >= 3
    (missed,) = [event for event in told if isinstance(event, SlotMissed)]
    assert missed.schedule == "gap"
    assert "slots up to" in missed.reason
    (notice,) = [event for event in told if isinstance(event, Notice)]
    assert "odd" in notice.message


async def test_every_slot_found_while_the_last_job_is_open_names_that_job(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "3s"}})
    await backdate(conn, timedelta(seconds=3))
    # The next one may be due already, and is skipped for the same reason.
    fired, *_ = (await Firer().fire(conn)).recorded
    await conn.execute("delete from ingestd.slot")
    await backdate(conn, timedelta(seconds=12))
    skipped = (await Firer().fire(conn)).recorded
    assert len(skipped) > 1
    assert {slot.reason for slot in skipped} == {f"job {fired.job_id} of this schedule was still open"}
