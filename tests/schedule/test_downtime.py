"""A time in which nothing fired slots is one fact, however many nodes come back and whichever of them die."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from ingestd.errors import DatabaseUnreachable
from ingestd.events import Bus, Downtime, Event, SlotMissed
from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.pool import Database
from ingestd.postgres.session import connect
from ingestd.schedule.firing import Firer
from ingestd.schedule.scheduler import BEAT, GAP, Scheduler, fire_once
from ingestd.schedule.store import downtime
from tests.schedule.conftest import backdate, declare

HOUR = timedelta(hours=1)


@pytest.fixture
async def quarter(conn: asyncpg.Connection) -> str:
    """Cron of a schedule whose slots are a quarter of an hour away from now, so that none is on time."""
    return f"{(await conn.fetchval('select now()') - timedelta(minutes=15)).minute} * * * *"


async def silent_for(conn: asyncpg.Connection, age: timedelta) -> None:
    """Let the last pass of any node have been so long ago."""
    await conn.execute(
        """insert into ingestd.schedule_pulse (at) values (now() - $1::interval)
           on conflict (one) do update set at = excluded.at""",
        age,
    )


async def downtimes(conn: asyncpg.Connection) -> list[tuple[int, int, int, bool]]:
    rows = await conn.fetch("select * from ingestd.downtime order by id")
    return [(row["schedules"], row["missed"], row["late"], row["counted_at"] is not None) for row in rows]


def listening() -> tuple[Bus, list[Event]]:
    bus, told = Bus(), list[Event]()
    bus.subscribe(told.append)
    return bus, told


async def test_a_gap_is_told_once_with_what_it_cost_instead_of_slot_by_slot(db: Database, conn: asyncpg.Connection, quarter: str) -> None:
    catching_up = {f"s{number}": {"cron": quarter, "catch_up": "latest"} for number in range(5)}
    await declare(conn, catching_up | {"never": {"cron": quarter, "catch_up": "none"}})
    await backdate(conn, 5 * HOUR)
    await silent_for(conn, 5 * HOUR)
    began = await conn.fetchval("select at from ingestd.schedule_pulse")
    bus, told = listening()
    scheduler = Scheduler(db, bus)
    await scheduler.poll()
    (event,) = [event for event in told if isinstance(event, Downtime)]
    assert not [event for event in told if isinstance(event, SlotMissed)]
    assert (event.began_at, event.schedules, event.missed, event.late) == (began, 6, 5 * 4 + 5, 5)
    assert await downtimes(conn) == [(6, 25, 5, True)]
    await scheduler.poll()
    assert len([event for event in told if isinstance(event, Downtime)]) == 1
    assert len(await downtimes(conn)) == 1


async def test_a_first_start_is_no_downtime(db: Database, conn: asyncpg.Connection, quarter: str) -> None:
    await declare(conn, {"one": {"cron": quarter}})
    await backdate(conn, 5 * HOUR)
    bus, told = listening()
    await Scheduler(db, bus).poll()
    assert await downtimes(conn) == []
    assert [event for event in told if isinstance(event, SlotMissed)]
    assert await conn.fetchval("select now() - at < interval '20 seconds' from ingestd.schedule_pulse")


async def test_a_short_gap_is_none_and_slots_missed_in_it_are_told(db: Database, conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "2s", "start_within": "1s"}})
    await backdate(conn, timedelta(seconds=20))
    await silent_for(conn, GAP - timedelta(seconds=20))
    bus, told = listening()
    await Scheduler(db, bus).poll()
    assert await downtimes(conn) == []
    assert [event for event in told if isinstance(event, SlotMissed)]


async def test_a_gap_in_which_nothing_was_due_is_a_fact_too(db: Database, conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"at": "2999-01-01T00:00:00Z"}})
    await silent_for(conn, HOUR)
    bus, told = listening()
    await Scheduler(db, bus).poll()
    assert await downtimes(conn) == [(0, 0, 0, True)]
    assert [type(event) for event in told] == [Downtime]


async def test_without_schedules_nobody_misses_a_scheduler(db: Database, conn: asyncpg.Connection) -> None:
    await silent_for(conn, HOUR)
    bus, told = listening()
    scheduler = Scheduler(db, bus)
    await scheduler.poll()
    await declare(conn, {"one": {"every": "1h"}})
    await scheduler.poll()
    assert (await downtimes(conn), told) == ([], [])


async def test_slots_missed_before_the_gap_or_after_it_are_told_by_themselves(db: Database, conn: asyncpg.Connection, quarter: str) -> None:
    await declare(conn, {"one": {"cron": quarter, "catch_up": "none"}})
    await backdate(conn, 5 * HOUR)
    await silent_for(conn, timedelta(hours=2))
    bus, told = listening()
    await Scheduler(db, bus).poll()
    assert [type(event) for event in told] == [SlotMissed, Downtime]
    assert await downtimes(conn) == [(1, 2, 0, True)]


async def test_of_many_nodes_that_come_back_one_notes_the_gap(dsn: str, conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1h"}})
    await silent_for(conn, HOUR)
    first, second = await connect(dsn), await connect(dsn)
    transaction = first.transaction()
    await transaction.start()
    assert await downtime.note(first, GAP)
    late = asyncio.create_task(downtime.note(second, GAP))
    while not await conn.fetchval("select exists (select from pg_locks where not granted)"):
        await asyncio.sleep(0)
    await transaction.commit()
    await late
    assert len(await downtimes(conn)) == 1
    await first.close()
    await second.close()


async def test_a_gap_is_not_summed_up_while_another_node_fires_slots_of_it(dsn: str, conn: asyncpg.Connection, quarter: str) -> None:
    await declare(conn, {"held": {"cron": quarter, "catch_up": "none"}, "free": {"cron": quarter, "catch_up": "none"}})
    await backdate(conn, 3 * HOUR)
    await silent_for(conn, 3 * HOUR)
    assert await downtime.note(conn, GAP)
    other = await connect(dsn)
    transaction = other.transaction()
    await transaction.start()
    await Firer().fire(other, ["held"])
    await Firer().fire(conn)
    assert await downtime.count(conn) == []
    await transaction.rollback()  # that node died over it
    assert await downtime.count(conn) == []
    await Firer().fire(conn)
    (counted,) = await downtime.count(conn)
    assert (counted["schedules"], counted["missed"]) == (2, 6)
    assert await downtime.count(conn) == []
    await other.close()


async def test_a_gap_is_counted_to_the_slot_though_nodes_are_killed_all_the_time(dsn: str, conn: asyncpg.Connection) -> None:
    await declare(conn, {f"s{number}": {"every": "1m", "catch_up": "none"} for number in range(30)})
    await backdate(conn, timedelta(hours=6))
    await silent_for(conn, timedelta(hours=6))
    told: list[Event] = []
    bus = Bus()
    bus.subscribe(told.append)

    async def node() -> None:
        while True:
            try:
                own = await connect(dsn, application_name="doomed")
            except DatabaseUnreachable:
                continue
            try:
                while not await own.fetchval("select exists (select from ingestd.downtime where counted_at is not null)"):
                    await downtime.note(own, GAP)
                    await Firer().fire(own)
                    await downtime.beat(own, BEAT)
                    await downtime.count(own)
                await own.close()
                return
            except OUTAGE:
                own.terminate()

    async def reaper() -> None:
        for _ in range(30):
            await conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'doomed'")
            await asyncio.sleep(0.01)

    async with asyncio.timeout(60):
        await asyncio.gather(node(), node(), reaper())
    (found,) = await conn.fetch("select * from ingestd.downtime")
    missed = await conn.fetchval(
        "select sum(slots) from ingestd.slot where state = 'missed' and due_at > $1 and due_at <= $2", found["began_at"], found["ended_at"]
    )
    assert found["missed"] == missed >= 30 * 358
    assert found["schedules"] == 30


async def test_the_pulse_is_written_by_passes_that_succeed_and_not_by_each(db: Database, conn: asyncpg.Connection) -> None:
    scheduler = Scheduler(db, Bus())
    await scheduler.poll()
    first = await conn.fetchval("select at from ingestd.schedule_pulse")
    await scheduler.poll()
    assert await conn.fetchval("select at from ingestd.schedule_pulse") == first
    await silent_for(conn, 2 * BEAT)
    await conn.execute("alter table ingestd.schedule rename to hidden")
    with pytest.raises(asyncpg.UndefinedTableError):
        await scheduler.poll()
    assert await conn.fetchval("select at < now() - $1::interval from ingestd.schedule_pulse", BEAT)
    await conn.execute("alter table ingestd.hidden rename to schedule")
    await scheduler.poll()
    assert await conn.fetchval("select at > $1 from ingestd.schedule_pulse", first)


async def test_a_pulse_from_the_future_is_set_right(conn: asyncpg.Connection) -> None:
    await silent_for(conn, -HOUR)
    await downtime.beat(conn, BEAT)
    assert await conn.fetchval("select at <= now() from ingestd.schedule_pulse")


async def test_firing_once_now_and_then_has_no_downtime(db: Database, conn: asyncpg.Connection, quarter: str) -> None:
    await declare(conn, {"one": {"cron": quarter, "catch_up": "none"}})
    await backdate(conn, 5 * HOUR)
    bus, told = listening()
    await fire_once(db, bus)
    assert [type(event) for event in told] == [SlotMissed]
    assert await conn.fetchval("select count(*) from ingestd.schedule_pulse") == 0
