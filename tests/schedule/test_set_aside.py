"""Slots that people keep from running, and what a slot's row and job are given besides: pauses, skips, jitter, bounds, deadlines."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import asyncpg
import pytest

from ingestd.schedule.firing import Firer
from ingestd.schedule.slots import share
from ingestd.schedule.store.firing import RecordedSlot
from tests.schedule.conftest import backdate, declare, slot_states

MINUTE = timedelta(minutes=1)


async def fired(conn: asyncpg.Connection) -> list[tuple[str, str | None]]:
    return [(slot.state, slot.reason) for slot in await Firer().fire_all(conn)]


async def columns(conn: asyncpg.Connection, *names: str) -> list[object]:
    return list(await conn.fetchrow(f"select {', '.join(names)} from ingestd.schedule"))


# --- pauses


@pytest.mark.parametrize(
    ("by", "why", "words"), [(None, None, "paused"), ("ada", None, "paused by ada"), ("ada", "stocktaking", "paused by ada: stocktaking")]
)
async def test_slots_of_a_paused_schedule_are_skipped_in_the_words_of_whoever_paused_it(
    conn: asyncpg.Connection, by: str | None, why: str | None, words: str
) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, MINUTE)
    await conn.execute("update ingestd.schedule set paused_at = now(), paused_by = $1, pause_reason = $2", by, why)
    assert await fired(conn) == [("skipped", words)]
    assert await columns(conn, "paused_at is not null") == [True]


async def test_a_pause_holds_for_slots_due_before_its_end_and_is_over_then(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "overlap": "allow"}})
    await backdate(conn, timedelta(seconds=8))
    until = await conn.fetchval(
        """update ingestd.schedule set paused_at = now() - interval '1 hour', paused_by = 'ada', pause_reason = 'x',
           paused_until = date_trunc('second', now()) - interval '3 seconds' returning paused_until"""
    )
    recorded = await Firer().fire_all(conn)
    assert {slot.state for slot in recorded if slot.due_at < until} == {"skipped"}
    assert {slot.state for slot in recorded if slot.due_at >= until} == {"fired"}
    assert await columns(conn, "paused_at", "paused_by", "paused_until", "pause_reason") == [None] * 4


async def test_a_pause_that_goes_on_is_kept(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, MINUTE)
    await conn.execute("update ingestd.schedule set paused_at = now(), paused_until = now() + interval '1 hour'")
    assert await fired(conn) == [("skipped", "paused")]
    assert await columns(conn, "paused_at is not null", "paused_until is not null") == [True, True]


async def test_what_comes_due_in_downtime_while_a_schedule_is_paused_is_skipped_and_not_missed(conn: asyncpg.Connection) -> None:
    quarter = (await conn.fetchval("select now()") - timedelta(minutes=15)).minute
    await declare(conn, {"one": {"cron": f"{quarter} * * * *", "catch_up": "latest"}})
    await backdate(conn, timedelta(hours=4))
    await conn.execute("update ingestd.schedule set paused_at = now() - interval '2 hours'")
    assert await slot_states(conn, "one") == []
    # two were missed before anybody paused it
    assert [state for state, _ in await fired(conn)] == ["missed", "missed", "skipped", "skipped"]


async def test_the_slot_behind_a_pause_is_not_taken_for_a_second_one(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s"}})
    await backdate(conn, timedelta(seconds=5))
    await conn.execute(
        """update ingestd.schedule set paused_at = now() - interval '1 hour',
           paused_until = date_trunc('second', now()) - interval '1 second'"""
    )
    states = [state for state, _ in await fired(conn)]
    assert states.count("fired") == 1
    assert states[: states.index("fired")] == ["skipped"] * states.index("fired")


# --- one slot passed over


async def due_slots(conn: asyncpg.Connection, count: int) -> list[datetime]:
    """Let `one`, each second, have so many slots due; returns their times."""
    now: datetime = await conn.fetchval("select date_trunc('second', now())")
    await backdate(conn, timedelta(seconds=count), "one")
    await conn.execute("update ingestd.schedule set accounted_to = $1, since = $1", now - timedelta(seconds=count))
    return [now - timedelta(seconds=number) for number in reversed(range(count))]


async def test_one_slot_is_skipped_once_and_the_next_one_runs(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s"}})
    first, second, *_ = await due_slots(conn, 3)
    await conn.execute("update ingestd.schedule set skip_at = $1, skip_by = 'ada', skip_reason = 'moved house'", first)
    by_time = {slot.due_at: slot for slot in await Firer().fire_all(conn)}
    assert (by_time[first].state, by_time[first].reason) == ("skipped", "skipped once by ada: moved house")
    assert by_time[second].state == "fired"
    assert await columns(conn, "skip_at", "skip_by", "skip_reason") == [None] * 3


async def test_the_wish_to_skip_a_slot_to_come_is_kept(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "overlap": "allow"}})
    await due_slots(conn, 2)
    await conn.execute("update ingestd.schedule set skip_at = now() + interval '1 hour', skip_by = 'ada'")
    assert {state for state, _ in await fired(conn)} == {"fired"}
    assert await columns(conn, "skip_at is not null", "skip_by") == [True, "ada"]


async def test_a_slot_to_be_skipped_that_no_longer_exists_is_forgotten_when_its_time_has_passed(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "overlap": "allow"}})
    first, *_ = await due_slots(conn, 3)
    await conn.execute("update ingestd.schedule set skip_at = $1", first + timedelta(milliseconds=500))
    assert {state for state, _ in await fired(conn)} == {"fired"}
    assert await columns(conn, "skip_at") == [None]


# --- jitter


async def test_jobs_wait_their_share_of_the_jitter_and_keep_the_time_of_their_slot(conn: asyncpg.Connection) -> None:
    jitter = timedelta(minutes=30)
    await declare(conn, {f"s{number}": {"every": "1h", "jitter": "30m"} for number in range(50)})
    await backdate(conn, timedelta(hours=1))
    await conn.execute("update ingestd.schedule set rule = 'at ' || to_char(now(), 'YYYY-MM-DD\"T\"HH24:MI:SSOF') || ':00'")
    await Firer().fire_all(conn)
    rows = await conn.fetch(
        """select s.schedule, s.due_at, j.run_at, j.due_at as wanted, s.fired_at from ingestd.slot s
           join ingestd.job j on j.id = s.job_id"""
    )
    assert len(rows) == 50
    for row in rows:
        assert row["wanted"] == row["due_at"]
        assert row["run_at"] == max(row["due_at"] + share(row["schedule"], row["due_at"], jitter), row["fired_at"])
    assert len({row["run_at"] for row in rows}) > 45


async def test_a_slot_later_than_its_share_runs_at_once(conn: asyncpg.Connection) -> None:
    quarter = (await conn.fetchval("select now()") - timedelta(minutes=15)).minute
    await declare(conn, {"one": {"cron": f"{quarter} * * * *", "jitter": "5m"}})
    await backdate(conn, timedelta(minutes=30))
    assert [state for state, _ in await fired(conn)] == ["late"]
    assert await conn.fetchval("select run_at = created_at from ingestd.job")


# --- bounds


async def test_no_slot_before_the_start_and_none_after_the_end(conn: asyncpg.Connection) -> None:
    now: datetime = await conn.fetchval("select date_trunc('second', now())")
    start, end = now - timedelta(seconds=12), now - timedelta(seconds=6)
    await declare(conn, {"one": {"every": "2s", "overlap": "allow", "start": start, "end": end}})
    await backdate(conn, timedelta(seconds=20))
    recorded = await Firer().fire_all(conn)
    assert {slot.state for slot in recorded} == {"fired"}
    times = [slot.due_at for slot in recorded]
    assert start <= min(times) < start + timedelta(seconds=2)
    assert end - timedelta(seconds=2) < max(times) <= end
    assert await columns(conn, "next_due_at") == [None]


# --- what a slot is watched by


async def test_a_slot_with_a_job_is_given_its_deadlines_and_one_without_none(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "start_within": "10m", "finish_within": "2h", "target_runtime": "5m"}})
    await backdate(conn, timedelta(seconds=3))
    recorded = await Firer().fire_all(conn)
    assert {slot.state for slot in recorded} == {"fired", "skipped"}
    for row in await conn.fetch("select * from ingestd.slot"):
        watched = (row["start_by"], row["finish_by"], row["target_runtime"])
        if row["state"] == "fired":
            assert watched == (row["due_at"] + 10 * MINUTE, row["due_at"] + 120 * MINUTE, 5 * MINUTE)
            assert row["check_at"] == row["fired_at"] + timedelta(seconds=1)
        else:
            assert (*watched, row["check_at"], row["job_id"]) == (None,) * 5


async def test_a_thousand_slots_of_one_second_are_one_statement(conn: asyncpg.Connection) -> None:
    await declare(conn, {f"s{number}": {"every": "1h", "jitter": "10s"} for number in range(1000)})
    await backdate(conn, timedelta(hours=1))
    statements: list[str] = []
    conn.add_query_logger(lambda record: statements.append(record.query))
    recorded: list[RecordedSlot] = list((await Firer().fire(conn)).recorded)
    await asyncio.sleep(0)  # the loop calls the logger
    assert len([text for text in statements if "insert into ingestd.slot" in text]) == 1
    assert len(recorded) == len({slot.job_id for slot in recorded}) == 1000
