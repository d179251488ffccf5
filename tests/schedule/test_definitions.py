"""Schedules that people make by API and command line: the file's words, the file's rules, and the file before them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from ingestd.postgres.session import connect
from ingestd.schedule.declare import CompiledTarget
from ingestd.schedule.definitions import Definitions, merge_patch, read_definition
from ingestd.schedule.firing import Firer
from ingestd.schedule.settings import ScheduleSettings, ScheduleTarget
from ingestd.schedule.store.firing import RecordedSlot
from tests.schedule.conftest import backdate, declare, fire_until, slot_states, steps_other_than_a_second
from tests.schedule.test_settings import read

ADA = Actor("ada", "operator", "api")
HOURLY = {"every": "1h", "job": "tick"}


async def compile_target(_: asyncpg.Connection, target: ScheduleTarget) -> CompiledTarget:
    return CompiledTarget(target.name, target.args, queue=str(target.args.get("lane", "default")))


async def check_names(_conn: asyncpg.Connection, name: str, schedule: ScheduleSettings) -> Sequence[str]:
    return [f'"job" in [schedules.{name}]: there is no job "tikc", did you mean "tick"?'] if schedule.job == "tikc" else []


@pytest.fixture
def definitions() -> Definitions:
    return Definitions(compile_target, check_names)


async def row(conn: asyncpg.Connection, name: str = "mine") -> asyncpg.Record:
    found = await conn.fetchrow("select * from ingestd.schedule where name = $1", name)
    assert found is not None
    return found


async def audit(conn: asyncpg.Connection) -> list[tuple[str, str]]:
    found = await conn.fetch("select action, object_id from ingestd.audit where object_type = 'schedule' order by id")
    return [(one["action"], one["object_id"]) for one in found]


async def test_a_created_schedule_is_in_service_from_now_on(conn: asyncpg.Connection, definitions: Definitions) -> None:
    await definitions.create(conn, ADA, "mine", HOURLY | {"jitter": "5s", "tags": ["x"], "start": "2020-01-01"})
    made = await row(conn)
    assert (made["owner"], made["rule"], made["kind"], made["jitter"]) == ("api", "every 1h", "tick", timedelta(seconds=5))
    assert made["since"] == made["accounted_to"] < made["next_due_at"]
    assert await audit(conn) == [("create", "mine")]
    await backdate(conn, timedelta(hours=2))
    assert {slot.state for slot in await Firer().fire_all(conn)} <= {"late", "missed", "fired"}
    assert await slot_states(conn, "mine")


async def test_arguments_do_not_go_into_the_audit_log(conn: asyncpg.Connection, definitions: Definitions) -> None:
    await definitions.create(conn, ADA, "mine", HOURLY | {"args": {"password": "hunter2"}})
    await definitions.edit(conn, ADA, "mine", {"args": {"password": "hunter3"}})
    told = await conn.fetchval("select string_agg(detail::text, ' ') from ingestd.audit")
    assert "password" in told
    assert "hunter" not in told


async def test_a_name_is_given_once(conn: asyncpg.Connection, definitions: Definitions) -> None:
    await definitions.create(conn, ADA, "mine", HOURLY)
    with pytest.raises(Conflict, match='there is a schedule "mine" already') as mine:
        await definitions.create(conn, ADA, "mine", HOURLY)
    assert "edited" in str(mine.value.hint)
    await declare(conn, {"files": {"every": "1h"}})
    with pytest.raises(Conflict) as theirs:
        await definitions.create(conn, ADA, "files", HOURLY)
    assert theirs.value.hint == "it is declared in the configuration file: change it there and reload"


async def test_two_who_create_the_same_name_at_once_make_one(dsn: str, conn: asyncpg.Connection, definitions: Definitions) -> None:
    async def create(tag: str) -> bool:
        own = await connect(dsn)
        try:
            await definitions.create(own, ADA, "mine", HOURLY | {"tags": [tag]})
        except Conflict:
            return False
        else:
            return True
        finally:
            await own.close()

    made = await asyncio.gather(*(create(f"t{number}") for number in range(8)))
    assert sum(made) == 1
    assert (await row(conn))["tags"] == [f"t{made.index(True)}"]
    assert await audit(conn) == [("create", "mine")]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"job": "x"}, "[schedules.mine]: says nothing about when it runs: give it one of cron, every or at"),
        (
            {"every": "1h", "job": "x", "after": [{"job": f"y{n}"} for n in range(21)]},
            '"after" in [schedules.mine]: must have 20 entries at most',
        ),
        ({"every": "1h", "job": "x", "max_catch_up": "9" * 5000}, '"max_catch_up" in [schedules.mine]: must be a number of fewer digits'),
        ({"every": "1h", "job": "x", "overlapp": "skip"}, 'unknown key "overlapp" in [schedules.mine], did you mean "overlap"?'),
        ({"cron": "99 * * * *", "job": "x"}, '"cron" in [schedules.mine]: "99 * * * *": bad minute "99"'),
        ({"every": "1h", "job": "x", "after": [{"job": "a", "ok_within": "soon"}]}, '"after" in [schedules.mine]: entry 1: "soon" is not'),
    ],
)
def test_what_is_refused_is_refused_in_the_words_of_the_file(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as by_api:
        read_definition("mine", keys)
    assert by_api.value.message.startswith(says)
    with pytest.raises(ConfigurationError) as by_file:
        read(**keys)
    assert [f"config.toml: {by_api.value.message}".replace("mine", "nightly")] == by_file.value.problems


def test_the_key_that_is_wrong_is_pointed_at() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_definition("mine", HOURLY | {"overlap": "never"})
    assert caught.value.pointer == "/overlap"


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(InvalidInput, match=r'^"priority" in .*; "overlap" in ') as caught:
        read_definition("mine", HOURLY | {"overlap": "never", "priority": "top"})
    assert "definition" not in caught.value.message


@pytest.mark.parametrize("name", ["", "Mine", "my-schedule", "a__b", "9", "x" * 64, "mine\n", "mine\0"])
def test_a_name_is_checked_like_one_in_the_file(name: str) -> None:
    with pytest.raises(InvalidInput):
        read_definition(name, HOURLY)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"x": [value]}
    return value


@pytest.mark.parametrize("bad", [{"args": {"x": "a\0b"}}, {"tags": ["\ud800"]}, {"args": {"a\0": 1}}, {"args": {"x": nested(400)}}])
def test_what_postgres_cannot_hold_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="cannot hold"):
        read_definition("mine", HOURLY | bad)


@pytest.mark.parametrize("keys", [{"at": "2020-01-01"}, {"every": "1h", "end": "2020-01-01"}])
async def test_a_schedule_whose_time_is_over_is_not_made(conn: asyncpg.Connection, definitions: Definitions, keys: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="no slot to come"):
        await definitions.create(conn, ADA, "mine", {"job": "tick"} | keys)
    assert await conn.fetchval("select count(*) from ingestd.schedule") == 0
    await definitions.create(conn, ADA, "mine", HOURLY)
    if "at" in keys:
        with pytest.raises(InvalidInput, match="no slot to come"):
            await definitions.edit(conn, ADA, "mine", keys)
        return
    assert await definitions.edit(conn, ADA, "mine", keys), "one that is in service may be brought to its end"
    assert (await row(conn))["next_due_at"] is None


async def test_edits_while_nodes_fire_and_files_are_applied_lose_and_double_nothing(
    dsn: str, conn: asyncpg.Connection, definitions: Definitions
) -> None:
    names = [f"s{number}" for number in range(10)]
    for name in names:
        await definitions.create(conn, ADA, name, {"every": "1s", "job": "tick", "overlap": "allow"})
    await backdate(conn, timedelta(seconds=10))
    over = asyncio.Event()

    async def reload() -> None:
        own = await connect(dsn)
        for turn in range(10):
            await declare(own, {"files": {"every": "1h", "tags": [f"t{turn}"]}})
        await own.close()

    async def edit() -> None:
        for turn in range(12):
            for name in names:
                bounds = {"start": f"2020-01-{turn + 1:02}"} if turn % 3 == 2 else {"tags": [f"t{turn}"]}
                assert await definitions.edit(conn, ADA, name, bounds)
        over.set()

    await asyncio.gather(fire_until(dsn, over), fire_until(dsn, over), reload(), edit())
    jobs, slots = await conn.fetchrow("select (select count(*) from ingestd.job), (select count(*) from ingestd.slot)")
    assert await steps_other_than_a_second(conn) == 0
    assert jobs <= slots
    assert slots >= 100
    assert jobs == await conn.fetchval("select count(distinct job_id) from ingestd.slot")


async def test_a_name_that_nobody_knows_is_refused_with_the_nearest(conn: asyncpg.Connection, definitions: Definitions) -> None:
    with pytest.raises(InvalidInput, match='did you mean "tick"'):
        await definitions.create(conn, ADA, "mine", {"every": "1h", "job": "tikc"})
    with pytest.raises(InvalidInput, match='there is no queue "importz", did you mean "imports"'):
        await definitions.create(conn, ADA, "mine", HOURLY | {"args": {"lane": "importz"}})
    assert await conn.fetchval("select count(*) from ingestd.schedule") == 0
    assert await audit(conn) == []


async def test_an_edit_changes_what_it_names_and_nothing_else(conn: asyncpg.Connection, definitions: Definitions) -> None:
    await definitions.create(conn, ADA, "mine", HOURLY | {"args": {"a": 1, "b": {"c": 2, "d": 3}}, "start_within": "5m", "tags": ["x"]})
    before = await row(conn)
    assert await definitions.edit(conn, ADA, "mine", {"start_within": None, "args": {"b": {"c": None, "e": 4}}, "priority": "high"})
    after = await row(conn)
    assert after["args"] == {"a": 1, "b": {"d": 3, "e": 4}}
    assert (after["start_within"], after["rank"], after["tags"]) == (None, -10, ["x"])
    assert (after["since"], after["accounted_to"], after["next_due_at"]) == (before["since"], before["accounted_to"], before["next_due_at"])
    assert after["turn"] > before["turn"]


async def test_an_edit_that_changes_nothing_leaves_no_trace(conn: asyncpg.Connection, definitions: Definitions) -> None:
    await definitions.create(conn, ADA, "mine", HOURLY)
    before = await row(conn)
    assert not await definitions.edit(conn, ADA, "mine", {"every": "60m", "end": None})
    assert await row(conn) == before
    assert await audit(conn) == [("create", "mine")]


def test_another_rule_or_target_takes_the_place_of_the_one_there_is() -> None:
    spec = {"every": "1h", "job": "tick", "tags": ["x"]}
    assert merge_patch(spec, {"cron": "@daily"}) == {"cron": "@daily", "job": "tick", "tags": ["x"]}
    assert merge_patch(spec, {"import": "readings", "tags": None}) == {"every": "1h", "import": "readings"}
    both = merge_patch(spec, {"cron": "@daily", "every": "2h"})
    with pytest.raises(InvalidInput, match="cron and every exclude each other"):
        read_definition("mine", both)
    with pytest.raises(InvalidInput, match="says nothing about when"):
        read_definition("mine", merge_patch(spec, {"every": None}))


async def test_an_edited_rule_settles_what_the_old_one_owed(conn: asyncpg.Connection) -> None:
    told: list[RecordedSlot] = []
    definitions = Definitions(compile_target, check_names, told.extend)
    await definitions.create(conn, ADA, "mine", {"every": "1m", "job": "tick"})
    await backdate(conn, timedelta(minutes=3))
    await definitions.edit(conn, ADA, "mine", {"every": "7m"})
    assert len(told) == len(await slot_states(conn, "mine")) == 3
    assert await conn.fetchval("select count(*) from ingestd.job") == 1
    made = await row(conn)
    assert (made["rule"], made["since"]) == ("every 7m", made["accounted_to"])
    assert (await Firer().fire(conn)).recorded == []


async def test_a_schedule_of_the_file_is_read_only(conn: asyncpg.Connection, definitions: Definitions) -> None:
    await declare(conn, {"files": {"every": "1h"}})
    before = await row(conn, "files")
    with pytest.raises(Conflict, match="declared in the configuration file: change it there and reload"):
        await definitions.edit(conn, ADA, "files", {"every": "2h"})
    with pytest.raises(Conflict, match="declared in the configuration file"):
        await definitions.delete(conn, ADA, "files")
    assert await row(conn, "files") == before


async def test_what_is_not_there_is_named_with_the_nearest(conn: asyncpg.Connection, definitions: Definitions) -> None:
    await definitions.create(conn, ADA, "mine", HOURLY)
    for act in (definitions.edit(conn, ADA, "mien", {}), definitions.delete(conn, ADA, "mien")):
        with pytest.raises(NotFound, match='there is no schedule "mien", did you mean "mine"'):
            await act


async def test_a_deleted_schedule_fires_no_more_and_its_name_is_free(conn: asyncpg.Connection, definitions: Definitions) -> None:
    await definitions.create(conn, ADA, "mine", {"every": "1s", "job": "tick"})
    await backdate(conn, timedelta(seconds=3))
    await definitions.delete(conn, ADA, "mine", "no longer needed")
    assert set(await slot_states(conn, "mine")) == {"missed"}
    assert (await Firer().fire(conn)).recorded == []
    assert await conn.fetchval("select detail ->> 'reason' from ingestd.audit where action = 'delete'") == "no longer needed"
    with pytest.raises(NotFound):
        await definitions.edit(conn, ADA, "mine", {})
    slots = len(await slot_states(conn, "mine"))
    await definitions.create(conn, ADA, "mine", HOURLY)
    made = await row(conn)
    assert made["removed_at"] is None
    assert made["since"] == made["accounted_to"]
    assert len(await slot_states(conn, "mine")) == slots


async def test_a_reload_leaves_other_peoples_schedules_alone(conn: asyncpg.Connection, definitions: Definitions) -> None:
    await definitions.create(conn, ADA, "mine", HOURLY)
    before = await row(conn)
    applied = await declare(conn, {"files": {"every": "1h"}})
    assert (applied.removed, applied.taken_over) == ((), ())
    await declare(conn, {})
    assert await row(conn) == before


async def test_a_reload_finds_the_next_moment_anew_where_the_time_zones_say_otherwise(
    conn: asyncpg.Connection, definitions: Definitions
) -> None:
    await definitions.create(conn, ADA, "mine", HOURLY)
    await definitions.create(conn, ADA, "off", HOURLY | {"enabled": False})
    right = (await row(conn))["next_due_at"]
    await conn.execute("update ingestd.schedule set next_due_at = next_due_at + interval '30 minutes'")
    await declare(conn, {})
    assert (await row(conn))["next_due_at"] == right
    assert (await row(conn, "off"))["next_due_at"] is None
    await conn.execute("update ingestd.schedule set rule = 'cron 99 * * * *', problem = 'no such minute' where name = 'mine'")
    await declare(conn, {})


async def test_the_file_takes_over_a_name_and_no_slot_is_lost_by_it(conn: asyncpg.Connection, definitions: Definitions) -> None:
    await definitions.create(conn, ADA, "mine", {"every": "1m", "job": "tick", "overlap": "allow", "catch_up": "all"})
    await backdate(conn, timedelta(minutes=5))
    applied = await declare(conn, {"mine": {"every": "1m", "overlap": "allow", "catch_up": "all"}})
    assert applied.taken_over == applied.changed == ("mine",)
    assert (await row(conn))["owner"] == "file"
    await Firer().fire_all(conn)
    assert len(await slot_states(conn, "mine")) == 5
    with pytest.raises(Conflict):
        await definitions.edit(conn, ADA, "mine", {"every": "2m"})
    assert (await declare(conn, {})).removed == ("mine",)
    assert (await declare(conn, {"mine": {"every": "1m"}})).taken_over == ()


async def test_nodes_are_told_of_what_may_be_due_sooner(dsn: str, conn: asyncpg.Connection, definitions: Definitions) -> None:
    heard = asyncio.Event()
    listener = await connect(dsn)
    try:
        await listener.add_listener("ingestd_schedule", lambda *_: heard.set())
        await definitions.create(conn, ADA, "mine", HOURLY)
        await asyncio.wait_for(heard.wait(), 20)
    finally:
        await listener.close()
