"""Applying a configuration: nothing lost, nothing doubled, whatever changed."""

from __future__ import annotations

import asyncio
import tomllib
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.errors import ConfigurationError
from ingestd.schedule.actions import pause
from ingestd.schedule.declare import CompiledTarget, apply
from ingestd.schedule.firing import Firer
from ingestd.schedule.settings import ScheduleSettings, ScheduleTarget
from tests.schedule.conftest import backdate, declare, fire_until, slot_states, steps_other_than_a_second

ADMIN = Actor("ada", "admin", "cli")
PAST, FUTURE = "2020-01-01", "2990-01-01"
PLACE = "select since, accounted_to, next_due_at from ingestd.schedule"
CHANGES: list[dict[str, Any]] = [
    {"tags": ["x"]},
    {"start": PAST},
    {"start": PAST, "jitter": "300ms"},
    {"end": FUTURE, "jitter": "300ms", "finish_within": "1h"},
    {"end": FUTURE, "target_runtime": "5s", "start_within": "30m"},
    {"timezone": "Asia/Kathmandu", "start": PAST, "end": FUTURE},
    {},
]


async def test_applying_the_same_schedules_again_changes_nothing(conn: asyncpg.Connection) -> None:
    written = {"one": {"cron": "0 2 * * *", "timezone": "Europe/Berlin", "args": {"n": 1}}, "two": {"every": "1h"}}
    first = await declare(conn, written)
    assert first.added == ("one", "two")
    before = await conn.fetch("select * from ingestd.schedule order by name")
    second = await declare(conn, written)
    assert (second.added, second.changed, second.removed) == ((), (), ())
    assert await conn.fetch("select * from ingestd.schedule order by name") == before


async def test_a_new_schedule_has_no_slots_before_it_was_declared(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s"}})
    assert await conn.fetchval("select since = accounted_to and next_due_at > since from ingestd.schedule")
    await Firer().fire(conn)
    assert await conn.fetchval("select count(*) from ingestd.slot where due_at <= (select since from ingestd.schedule)") == 0


async def test_changing_anything_but_the_rule_keeps_the_slots_owed(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, timedelta(minutes=5))
    since = await conn.fetchval("select since from ingestd.schedule")
    applied = await declare(conn, {"one": {"every": "1m", "job": "tock", "priority": 5, "catch_up": "all", "overlap": "queue"}})
    assert applied.changed == ("one",)
    assert await conn.fetchval("select since from ingestd.schedule") == since
    await Firer().fire_all(conn)
    assert len(await slot_states(conn, "one")) == 5
    assert {row["kind"] for row in await conn.fetch("select kind from ingestd.job")} == {"tock"}


async def test_a_changed_rule_settles_what_the_old_one_owed_and_starts_afresh(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, timedelta(minutes=3))
    applied = await declare(conn, {"one": {"every": "7m"}})
    assert applied.changed == ("one",)
    assert len(applied.settled) == 3
    assert await conn.fetchval("select count(*) from ingestd.job") == 1  # catch_up = "latest"
    assert await conn.fetchval("select since > now() - interval '10 seconds' and next_due_at > now() from ingestd.schedule")
    assert (await Firer().fire(conn)).recorded == []


async def test_a_changed_time_zone_is_a_changed_rule(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"cron": "0 2 * * *"}})
    await backdate(conn, timedelta(minutes=1))
    await declare(conn, {"one": {"cron": "0 2 * * *", "timezone": "Asia/Kathmandu"}})
    assert await conn.fetchval("select since > now() - interval '10 seconds' from ingestd.schedule")


@pytest.mark.parametrize("key", ["start", "end"])
async def test_a_changed_bound_is_a_changed_rule(conn: asyncpg.Connection, key: str) -> None:
    await declare(conn, {"one": {"every": "1m", key: PAST if key == "start" else FUTURE, "overlap": "allow", "catch_up": "all"}})
    await backdate(conn, timedelta(minutes=3))
    applied = await declare(conn, {"one": {"every": "1m", key: "2021-01-01" if key == "start" else "2992-01-01", "overlap": "allow"}})
    assert len(applied.settled) == 3
    assert await conn.fetchval("select since = accounted_to and since > now() - interval '10 seconds' from ingestd.schedule")


async def test_a_schedule_has_no_slots_before_its_start_and_none_after_its_end(conn: asyncpg.Connection) -> None:
    await declare(conn, {"early": {"every": "1s", "start": FUTURE}, "over": {"every": "1s", "end": PAST}, "on": {"every": "1s"}})
    due = {row["name"]: row["next_due_at"] for row in await conn.fetch("select name, next_due_at from ingestd.schedule")}
    assert due["early"] == await conn.fetchval("select starts_at from ingestd.schedule where name = 'early'")
    assert due["early"].year == int(FUTURE[:4])
    assert due["over"] is None
    await conn.execute("update ingestd.schedule set since = now() - interval '5 seconds', accounted_to = now() - interval '5 seconds'")
    await conn.execute("update ingestd.schedule set next_due_at = now() - interval '4 seconds'")
    recorded = await Firer().fire_all(conn)
    assert {slot.schedule for slot in recorded} == {"on"}


async def test_a_schedule_that_is_over_goes_on_when_its_end_moves_and_owes_nothing(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s", "end": PAST}})
    await declare(conn, {"one": {"every": "1s", "end": FUTURE}})
    assert await conn.fetchval("select next_due_at > since from ingestd.schedule")
    await Firer().fire_all(conn)
    assert await conn.fetchval("select count(*) from ingestd.slot where due_at <= (select since from ingestd.schedule)") == 0


UNBOUND: list[dict[str, Any]] = [
    {"jitter": "500ms"}, {"start_within": "1h"}, {"finish_within": "2h"}, {"target_runtime": "1m"}, {"after": [{"job": "x"}]},
    {"tags": ["x"]}, {"priority": "high"}, {"args": {"n": 1}}, {"overlap": "queue"}, {"catch_up": "all"}, {"max_catch_up": 7},
]  # fmt: skip


@pytest.mark.parametrize("keys", UNBOUND, ids=lambda keys: next(iter(keys)))
async def test_what_is_not_the_rule_changes_at_once_and_keeps_the_slots_owed(conn: asyncpg.Connection, keys: dict[str, Any]) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await backdate(conn, timedelta(minutes=5))
    await declare(conn, {"one": {"every": "1m"}})
    before = await conn.fetchrow(PLACE)
    assert (await declare(conn, {"one": {"every": "1m"} | keys})).changed == ("one",)
    assert await conn.fetchrow(PLACE) == before
    written = await conn.fetchrow("select *, to_jsonb(s) - 'spec' as whole from ingestd.schedule s")
    assert (await declare(conn, {"one": {"every": "1m"} | keys})).changed == ()
    # And back again: nothing of it stays behind.
    assert (await declare(conn, {"one": {"every": "1m"}})).changed == ("one",)
    plain = await conn.fetchval("select to_jsonb(s) - 'spec' from ingestd.schedule s")
    moved = {"turn", "applied_at"} | ({"rank"} if "priority" in keys else set(keys))
    assert {key for key in plain if plain[key] != written["whole"][key]} == moved
    assert await conn.fetchrow(PLACE) == before


async def test_a_slot_to_be_passed_over_is_forgotten_with_its_rule_alone(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1h"}})
    await conn.execute("update ingestd.schedule set skip_at = next_due_at, skip_by = 'ada', skip_reason = 'holiday'")
    await declare(conn, {"one": {"every": "1h", "tags": ["x"]}})
    assert await conn.fetchval("select skip_at = next_due_at and skip_by = 'ada' from ingestd.schedule")
    await declare(conn, {"one": {"every": "2h", "tags": ["x"]}})
    assert await conn.fetchval("select num_nulls(skip_at, skip_by, skip_reason) = 3 from ingestd.schedule")


async def test_a_removed_schedule_fires_no_more_and_its_last_slots_are_missed(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s"}, "two": {"every": "1h"}})
    await backdate(conn, timedelta(seconds=3), "one")
    applied = await declare(conn, {"two": {"every": "1h"}})
    assert applied.removed == ("one",)
    assert set(await slot_states(conn, "one")) == {"missed"}
    assert "removed" in applied.settled[0].reason  # type: ignore[operator]
    assert await conn.fetchval("select count(*) from ingestd.job") == 0
    assert (await Firer().fire(conn)).recorded == []


async def test_a_schedule_declared_again_owes_nothing_for_the_time_between(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s"}})
    await declare(conn, {})
    # A second may have begun in between, whose slot belongs to its first life.
    earlier = await conn.fetchval("select count(*) from ingestd.slot")
    await conn.execute("update ingestd.schedule set removed_at = now() - interval '1 hour', since = now() - interval '2 hours'")
    applied = await declare(conn, {"one": {"every": "1s"}})
    assert applied.added == ("one",)
    assert applied.settled == ()
    await Firer().fire(conn)
    assert await conn.fetchval("select count(*) from ingestd.slot where due_at <= (select since from ingestd.schedule)") == earlier
    assert await conn.fetchval("select since > now() - interval '10 seconds' and removed_at is null from ingestd.schedule")


async def test_a_disabled_schedule_has_no_slots_until_it_is_enabled_again(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1s"}})
    await backdate(conn, timedelta(seconds=3))
    applied = await declare(conn, {"one": {"every": "1s", "enabled": False}})
    assert {slot.state for slot in applied.settled} == {"missed"}
    owed = len(applied.settled)
    assert (await Firer().fire(conn)).recorded == []
    await conn.execute("update ingestd.schedule set since = now() - interval '1 hour', accounted_to = now() - interval '1 hour'")
    await declare(conn, {"one": {"every": "1s"}})
    await Firer().fire(conn)
    assert await conn.fetchval("select count(*) from ingestd.slot where state = 'missed'") == owed


async def test_a_pause_survives_a_reload(conn: asyncpg.Connection) -> None:
    await declare(conn, {"one": {"every": "1m"}})
    await pause(conn, ADMIN, "one")
    await declare(conn, {"one": {"every": "1m", "tags": ["x"]}})
    assert await conn.fetchval("select paused_at is not null from ingestd.schedule")


async def test_reloading_while_nodes_fire_loses_and_doubles_nothing(dsn: str, conn: asyncpg.Connection) -> None:
    schedules = {f"s{number}": {"every": "1s", "overlap": "allow"} for number in range(20)}
    await declare(conn, schedules)
    await backdate(conn, timedelta(seconds=10))
    over = asyncio.Event()

    async def reload() -> None:
        for turn in range(15):
            # every second reload changes something, every fourth what counts as another rule
            more = CHANGES[turn // 2 % len(CHANGES)]
            await declare(conn, {name: keys | more for name, keys in schedules.items()})
        over.set()

    await asyncio.gather(fire_until(dsn, over), fire_until(dsn, over), reload())
    jobs, slots = await conn.fetchrow("select (select count(*) from ingestd.job), (select count(*) from ingestd.slot)")
    assert await steps_other_than_a_second(conn) == 0
    assert jobs == slots >= 200


async def test_targets_that_cannot_be_compiled_are_all_named(conn: asyncpg.Connection) -> None:
    def compile_target(target: ScheduleTarget) -> CompiledTarget:
        if target.name == "nope":
            raise ValueError('there is no job "nope"')
        return CompiledTarget(target.name, queue="importz")

    written = {name: ScheduleSettings(every="1m", job=job) for name, job in [("one", "nope"), ("two", "tick")]}  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError) as caught:
        await apply(conn, written, compile_target)
    assert caught.value.problems == [
        '[schedules.one]: there is no job "nope"',
        '[schedules.two]: there is no queue "importz", did you mean "imports"?',
    ]
    assert await conn.fetchval("select count(*) from ingestd.schedule") == 0


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"args": {"x": "a" * (1 << 20)}}, "more than 1 MiB"),
        ({"args": {"x": "a\0b"}}, "/args/x"),
        ({"args": {"x": float("nan")}}, "/args/x"),
        ({"tags": ["x" * 101]}, "a tag"),
        ({"tags": [f"t{number}" for number in range(51)]}, "at most 50 tags"),
    ],
)
async def test_a_schedule_whose_jobs_nobody_could_read_is_refused(conn: asyncpg.Connection, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await declare(conn, {"one": {"every": "1h"} | keys})
    assert refused.value.problems[0].startswith("[schedules.one]: ")
    assert says in refused.value.problems[0]


async def test_dates_and_times_of_a_file_can_be_arguments(conn: asyncpg.Connection) -> None:
    args = tomllib.loads("day = 2027-01-01\nat = 2027-01-01T02:00:00Z\ntime = 07:30:00\nn = 1.5")
    await declare(conn, {"one": {"every": "1h", "args": args}})
    kept = await conn.fetchval("select args from ingestd.schedule")
    assert kept == {"day": "2027-01-01", "at": "2027-01-01T02:00:00+00:00", "time": "07:30:00", "n": 1.5}
    assert (await declare(conn, {"one": {"every": "1h", "args": args}})).changed == ()
