"""Schedules over HTTP: what is seen of them, and what people do to them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.access.store import latest_audit
from ingestd.app.definitions import definitions
from ingestd.app.settings import Settings
from ingestd.imports.settings import ImportSettings
from ingestd.schedule.declare import CompiledTarget, apply
from ingestd.schedule.settings import ScheduleSettings
from tests.admin.conftest import Open, Site
from tests.admin.rows import finish_job
from tests.support import CROWDED

NIGHTLY = "/api/v1/schedules/nightly"


@pytest.fixture(autouse=True)
async def scheduled(conn: asyncpg.Connection) -> None:
    """A schedule `nightly` in Berlin, which lets only one of its jobs be open."""
    await declare(conn)


async def declare(conn: asyncpg.Connection, **keys: Any) -> None:
    """The schedule `nightly` with other keys."""
    given = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "job": "sync_prices", "args": {"api_key": "s3cret", "supplier": "acme"}}
    settings = ScheduleSettings.model_validate(given | keys)
    await apply(conn, {"nightly": settings}, lambda target: CompiledTarget("sync_prices", target.args))


async def add_slots(conn: asyncpg.Connection, count: int, state: str = "missed", first: int = 1) -> None:
    """Slots an hour apart, the newest one due so many hours ago."""
    await conn.execute(
        """insert into ingestd.slot (schedule, due_at, state, reason)
        select 'nightly', date_trunc('hour', now()) - make_interval(hours => n), $2, 'nothing was running'
        from generate_series($3::integer, $3 + $1 - 1) n""",
        count,
        state,
        first,
    )


async def test_a_schedule_is_shown_as_it_was_declared(site: Site, conn: asyncpg.Connection) -> None:
    """Its arguments without their secrets."""
    await declare(
        conn, jitter="30s", start_within="10m", finish_within="2h", target_runtime="90m", start="2026-01-01", end="2090-12-31",
        after=[{"import": "readings"}], priority=7, tags=["energy"],
    )  # fmt: skip
    shown = await site.get(NIGHTLY)
    assert (shown["rule"], shown["timezone"], shown["owner"]) == ("cron 30 2 * * *", "Europe/Berlin", "file")
    assert (shown["jitter"], shown["start_within"], shown["finish_within"], shown["target_runtime"]) == ("30s", "10m", "2h", "1h30m")
    assert (shown["start"], shown["end"][:10]) == ("2025-12-31T23:00:00Z", "2090-12-31")
    assert shown["after"] == [{"import": "readings", "ok_within": "1d", "on_failure": "skip"}]
    assert (shown["priority"], shown["tags"], shown["target"]) == (7, ["energy"], {"type": "job", "name": "sync_prices"})
    assert shown["args"]["supplier"] == "acme"
    assert shown["spec"]["cron"] == "30 2 * * *"
    assert "s3cret" not in str(shown)
    (listed,) = (await site.get("/api/v1/schedules"))["items"]
    assert listed == {key: value for key, value in shown.items() if key != "spec"}


async def test_the_slots_to_come_have_their_offset_and_a_note(site: Site) -> None:
    """From now on, or behind a moment that is read in the schedule's time zone."""
    found = await site.get(f"{NIGHTLY}/next?count=2&from=2027-03-27T12:00")
    assert [item["at"] for item in found["items"]] == ["2027-03-28T03:00:00+02:00", "2027-03-29T02:30:00+02:00"]
    assert "does not exist" in found["items"][0]["note"]
    assert found["items"][1]["note"] is None
    same = await site.get(f"{NIGHTLY}/next?count=2&from=2027-03-27T12:00:00+01:00")
    assert same == found
    assert len((await site.get(f"{NIGHTLY}/next"))["items"]) == 10
    for query in ("count=0", "count=1001", "count=x", "from=soon", "until=2027-01-01"):
        await site.get(f"{NIGHTLY}/next?{query}", 400)
    await site.get(f"{NIGHTLY}/next?from=9999-12-31T23:00:00-23:00", 422)


async def test_slots_come_in_pages_without_a_gap_while_new_ones_arrive(site: Site, conn: asyncpg.Connection) -> None:
    """Newest first; the cursor marks a moment, not a count."""
    await add_slots(conn, 5, first=2)
    seen: list[str] = []
    query = "?limit=2"
    while query:
        page = await site.get(f"{NIGHTLY}/slots{query}")
        seen += [slot["due_at"] for slot in page["items"]]
        if len(seen) == 2:
            await add_slots(conn, 1, first=1)
        query = f"?limit=2&cursor={quote(page['next_cursor'])}" if page["next_cursor"] else ""
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 5
    assert page["items"][0]["reason"] == "nothing was running"


async def test_slots_are_filtered_by_one_state_or_several(site: Site, conn: asyncpg.Connection) -> None:
    """A cursor belongs to its filter."""
    await add_slots(conn, 3, "missed")
    await add_slots(conn, 2, "skipped", first=10)
    await add_slots(conn, 1, "waiting", first=20)
    assert len((await site.get(f"{NIGHTLY}/slots?state=skipped"))["items"]) == 2
    assert len((await site.get(f"{NIGHTLY}/slots?state=missed,waiting"))["items"]) == 4
    problem = await site.get(f"{NIGHTLY}/slots?state=mised", 400)
    assert 'did you mean "missed"?' in problem["detail"]
    cursor = (await site.get(f"{NIGHTLY}/slots?state=missed&limit=1"))["next_cursor"]
    await site.get(f"{NIGHTLY}/slots?state=skipped&cursor={cursor}", 400)
    await site.get(f"{NIGHTLY}/slots?cursor=nonsense", 400)


async def test_how_a_slot_ended_is_read_from_its_row_once_it_stands_there(site: Site, conn: asyncpg.Connection) -> None:
    """Before that, from where its job is."""
    job_id = (await site.post(f"{NIGHTLY}/trigger", 202))["job_id"]
    (slot,) = (await site.get(f"{NIGHTLY}/slots"))["items"]
    assert (slot["job_id"], slot["job_state"], slot["ended"], slot["triggered_by"]) == (job_id, "available", None, "api")
    assert slot["reason"].startswith("started by ")
    await finish_job(conn, int(job_id))
    (slot,) = (await site.get(f"{NIGHTLY}/slots"))["items"]
    assert (slot["job_state"], slot["job_duration_ms"], slot["ended"]) == ("succeeded", 12, None)
    await conn.execute("update ingestd.slot set ended = 'partial', duration_ms = 7, ended_at = now(), overdue = 'finish'")
    await conn.execute("delete from ingestd.history")
    (slot,) = (await site.get(f"{NIGHTLY}/slots"))["items"]
    assert (slot["job_state"], slot["job_partial"], slot["job_duration_ms"], slot["overdue"]) == ("succeeded", True, 7, "finish")
    last = (await site.get(NIGHTLY))["last_slot"]
    assert (last["job_id"], last["job_state"], last["job_partial"], last["overdue"]) == (job_id, "succeeded", True, "finish")


async def test_a_trigger_while_its_job_is_open_is_a_conflict_with_that_job(site: Site) -> None:
    """As a member of its own, for programs."""
    job_id = (await site.post(f"{NIGHTLY}/trigger", 202, json={"reason": "prices changed"}))["job_id"]
    problem = await site.post(f"{NIGHTLY}/trigger", 409)
    assert (problem["job_id"], problem["current_state"]) == (job_id, "running")
    assert problem["hint"]


async def test_too_many_triggers_are_told_when_to_come_back(site: Site, conn: asyncpg.Connection) -> None:
    """429 with Retry-After."""
    await declare(conn, overlap="allow")
    for _ in range(10):
        await site.post(f"{NIGHTLY}/trigger", 202)
    async with site.request("POST", f"{NIGHTLY}/trigger") as response:
        problem = await response.json(content_type="application/problem+json")
        assert response.status == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert (problem["type"], problem["title"]) == ("urn:ingestd:problem:too-often", "Too many requests")
    assert "10 times within a minute" in problem["detail"]


async def test_a_pause_may_end_by_itself(site: Site, conn: asyncpg.Connection) -> None:
    """At a moment, or in a while; said twice, the last word counts."""
    shown = await site.post(f"{NIGHTLY}/pause", json={"for": "2h", "reason": "migration"})
    until = datetime.fromisoformat(shown["paused_until"])
    assert timedelta(hours=1.9) < until - datetime.now(UTC) < timedelta(hours=2.1)
    shown = await site.post(f"{NIGHTLY}/pause", json={"until": "2090-01-31T06:00"})
    assert (shown["paused"], shown["paused_until"], shown["pause_reason"]) == (True, "2090-01-31T05:00:00Z", "migration")
    await site.post(f"{NIGHTLY}/pause", json={"until": "2090-01-31T06:00:00+01:00"})
    shown = await site.post(f"{NIGHTLY}/resume")
    assert (shown["paused"], shown["paused_until"], shown["pause_reason"]) == (False, None, None)
    await site.post(f"{NIGHTLY}/resume")
    assert [row["action"] for row in await latest_audit(conn, "schedule", "nightly")] == ["resume", "pause", "pause"]


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({"until": "2001-01-01T00:00:00Z"}, "/until", "would be over already"),
        ({"until": "soon"}, "/until", ""),
        ({"for": "2 fortnights"}, "/for", "fortnights"),
        ({"for": "2h", "until": "2090-01-01T00:00:00Z"}, "/until", "not both"),
        ({"fro": "2h"}, "/fro", 'did you mean "for"?'),
    ],
)
async def test_a_pause_that_makes_no_sense_is_refused(site: Site, body: dict[str, Any], pointer: str, words: str) -> None:
    """With the member that is wrong."""
    problem = await site.post(f"{NIGHTLY}/pause", 422, json=body)
    assert problem["errors"][0]["pointer"] == pointer
    assert words in problem["detail"]
    assert (await site.get(NIGHTLY))["paused"] is False


async def test_the_next_slot_is_skipped_and_that_is_taken_back(site: Site, conn: asyncpg.Connection) -> None:
    """Each is audited once."""
    shown = await site.post(f"{NIGHTLY}/skip-next", json={"reason": "stocktaking"})
    assert (shown["skip_at"], shown["skip_reason"]) == (shown["next_due_at"], "stocktaking")
    assert (await site.post(f"{NIGHTLY}/skip-next"))["skip_at"] == shown["skip_at"]
    for _ in range(2):
        async with site.request("DELETE", f"{NIGHTLY}/skip-next") as response:
            assert (response.status, (await response.json())["skip_at"]) == (200, None)
    assert [row["action"] for row in await latest_audit(conn, "schedule", "nightly")] == ["unskip", "skip_next"]
    await site.post(f"{NIGHTLY}/pause")
    problem = await site.post(f"{NIGHTLY}/skip-next", 409)
    assert problem["current_state"] == "paused"


async def test_downtimes_come_in_pages(site: Site, conn: asyncpg.Connection) -> None:
    """Newest first."""
    assert (await site.get("/api/v1/downtimes"))["items"] == []
    await conn.execute(
        """insert into ingestd.downtime (began_at, ended_at, schedules, missed, late)
        select now() - make_interval(hours => 10 - n), now() - make_interval(hours => 9 - n), 2, n, 1 from generate_series(1, 3) n"""
    )
    page = await site.get("/api/v1/downtimes?limit=2")
    assert [(item["schedules"], item["missed"], item["late"]) for item in page["items"]] == [(2, 3, 1), (2, 2, 1)]
    rest = await site.get(f"/api/v1/downtimes?limit=2&cursor={page['next_cursor']}")
    assert ([item["missed"] for item in rest["items"]], rest["next_cursor"]) == ([1], None)


async def test_schedules_come_in_pages_by_name(site: Site, conn: asyncpg.Connection) -> None:
    """A cursor of another list is none."""
    settings = ScheduleSettings(every=timedelta(hours=1), job="sync_prices")
    await apply(conn, dict.fromkeys(("a", "b", "c"), settings), lambda _: CompiledTarget("sync_prices"))
    page = await site.get("/api/v1/schedules?limit=2")
    rest = await site.get(f"/api/v1/schedules?limit=2&cursor={page['next_cursor']}")
    assert [item["name"] for item in page["items"] + rest["items"]] == ["a", "b", "c"]
    assert rest["next_cursor"] is None
    await site.get(f"/api/v1/downtimes?cursor={page['next_cursor']}", 400)


@pytest.fixture
async def making(open_site: Open) -> Site:
    """A site that can make schedules; the import `readings` is declared, the job `sync_prices` known."""
    declared = Settings(imports={"readings": ImportSettings(source="inbox/*.csv", table="readings")})
    return await open_site(state={"definitions": definitions(lambda: declared)})


HOURLY = {"name": "mine", "every": "1h", "job": "sync_prices", "args": {"supplier": "acme"}}


async def test_a_schedule_is_made_changed_and_taken_away(making: Site, conn: asyncpg.Connection) -> None:
    """In the words of the configuration file."""
    async with making.request("POST", "/api/v1/schedules", json=HOURLY | {"start_within": "10m", "priority": "high"}) as response:
        made = await response.json()
        assert (response.status, response.headers["Location"]) == (201, "/api/v1/schedules/mine"), made
    assert (made["owner"], made["rule"], made["start_within"], made["priority"]) == ("api", "every 1h", "10m", 10)
    assert made["spec"]["args"] == {"supplier": "acme"}
    problem = await making.post("/api/v1/schedules", 409, json=HOURLY)
    assert 'there is a schedule "mine" already' in problem["detail"]
    async with making.request("PATCH", "/api/v1/schedules/mine", json={"cron": "0 2 * * *", "start_within": None}) as response:
        changed = await response.json()
        assert response.status == 200, changed
    assert (changed["rule"], changed["start_within"], changed["args"]) == ("cron 0 2 * * *", None, {"supplier": "acme"})
    async with making.request("DELETE", "/api/v1/schedules/mine?reason=no+longer") as response:
        assert (response.status, await response.json()) == (200, {"name": "mine", "deleted": True})
    await making.get("/api/v1/schedules/mine", 404)
    audit = await latest_audit(conn, "schedule", "mine")
    assert [row["action"] for row in audit] == ["delete", "edit", "create"]
    assert audit[0]["detail"] == {"reason": "no longer"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "mine", "job": "sync_prices"}, "give it one of cron, every or at"),
        (HOURLY | {"evry": "2h"}, 'did you mean "every"?'),
        (HOURLY | {"every": "2 fortnights"}, "fortnights"),
        (HOURLY | {"job": "sync_price"}, 'did you mean "sync_prices"?'),
        (HOURLY | {"name": "Mine!"}, "is not a name"),
        ({"name": "mine", "every": "1h", "import": "reading"}, 'did you mean "readings"?'),
        ({"every": "1h", "job": "sync_prices"}, 'member "name" is missing'),
        (HOURLY | {"timezone": "Europe/Skopie"}, 'did you mean "Europe/Skopje"?'),
    ],
)
async def test_a_schedule_that_makes_no_sense_is_refused(making: Site, body: dict[str, Any], words: str) -> None:
    """With what to do about it."""
    problem = await making.post("/api/v1/schedules", 422, json=body)
    assert words in problem["detail"]
    await making.get("/api/v1/schedules/mine", 404)


@pytest.mark.parametrize(
    "keys",
    [
        {"every": 5}, {"every": True}, {"every": "9" * 5000 + "d"},
        {"every": None, "cron": ["0 2 * * *"]}, {"every": None, "cron": "x" * 500_000}, {"every": None, "cron": "0 0 1--100000000 * *"},
        {"every": None, "at": "0001-01-01T00:00:00+14:00"}, {"every": None, "at": {}}, {"start": "9999-12-31T23:59:59-23:59"}, {"end": 7},
        {"args": "x"}, {"after": {}}, {"after": [5]}, {"after": [{"import": 5}]}, {"tags": 5}, {"tags": {}}, {"priority": {}},
        {"priority": 101}, {"jitter": -1}, {"jitter": "2d"}, {"max_catch_up": 0}, {"max_catch_up": 10**30}, {"enabled": "maybe"},
        {"job": ""}, {"job": 7}, {"job": {}}, {"timezone": "../../etc/passwd"}, {"timezone": 5}, {"timezone": ""}, {"name": "a__b"},
        {"name": "x" * 100}, {"name": ""}, {"name": 5}, {"name": "null\0"}, {"overlap": []}, {"catch_up": None, "overlap": "Skip"},
        {"start_within": "0s"}, {"target_runtime": "-5m"}, {"import": "readings"}, {"": 1}, {"x" * 10_000: 1},
        {"import_": "readings", "job": None},
    ],
    ids=lambda keys: str(keys)[:40],
)  # fmt: skip
async def test_no_schedule_is_too_strange_to_be_refused(making: Site, conn: asyncpg.Connection, keys: dict[str, Any]) -> None:
    """A clear line of a bounded length, never an error of ours, and nothing is left behind."""
    body = {key: value for key, value in (HOURLY | keys).items() if value is not None or key not in ("every", "job", "catch_up")}
    began = time.monotonic()
    problem = await making.post("/api/v1/schedules", 422, json=body)
    assert len(problem["detail"]) < 1000
    assert time.monotonic() - began < 5 * CROWDED
    if "name" not in keys:
        await declare_mine(conn)
        patch = {key: value for key, value in keys.items() if value is not None}
        async with making.request("PATCH", "/api/v1/schedules/mine", json=patch) as response:
            assert 400 <= response.status < 500 or patch == {"import": "readings"}, await response.text()
    assert await conn.fetchval("select count(*) from ingestd.schedule where owner = 'api' and rule <> 'every 1h'") == 0


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("enabled", wrong, "must be true or false") for wrong in ("no", "false", "off", 0, 1, 0.0)]
    + [("max_catch_up", True, "must be a whole number")],
)
async def test_true_and_false_are_guessed_from_nothing_else(
    making: Site, conn: asyncpg.Connection, key: str, value: Any, words: str
) -> None:
    """Only the environment, where all is text, writes them as words."""
    refused = await making.post("/api/v1/schedules", 422, json=HOURLY | {key: value})
    assert refused["detail"] == f'"{key}" in [schedules.mine]: {words}'
    await declare_mine(conn)
    async with making.request("PATCH", "/api/v1/schedules/mine", json={key: value}) as response:
        problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["errors"][0]["pointer"]) == (422, f"/{key}")
    assert (await making.get("/api/v1/schedules/mine"))["enabled"] is True
    for right in (False, None):
        async with making.request("PATCH", "/api/v1/schedules/mine", json={"enabled": right}) as response:
            assert (response.status, (await response.json())["enabled"]) == (200, right is None)


async def declare_mine(conn: asyncpg.Connection) -> None:
    """A schedule of nobody's file, made directly."""
    await definitions(Settings).create(
        conn, Actor("ada", "operator", "api"), "mine", {key: HOURLY[key] for key in ("every", "job", "args")}
    )


async def test_a_schedule_of_the_file_is_not_changed_from_here(making: Site) -> None:
    """It says where."""
    for method in ("PATCH", "DELETE"):
        async with making.request(method, NIGHTLY, json={"cron": "0 3 * * *"} if method == "PATCH" else None) as response:
            problem = await response.json(content_type="application/problem+json")
            assert response.status == 409
            assert "is declared in the configuration file: change it there and reload" in problem["detail"]
    assert (await making.get(NIGHTLY))["rule"] == "cron 30 2 * * *"


async def test_a_misspelt_schedule_gets_a_suggestion_at_every_door(making: Site) -> None:
    """To look and to act."""
    for method, path in (
        ("GET", ""), ("GET", "/next"), ("GET", "/slots"), ("POST", "/trigger"), ("POST", "/pause"), ("POST", "/resume"),
        ("POST", "/skip-next"), ("DELETE", "/skip-next"), ("PATCH", ""), ("DELETE", ""),
    ):  # fmt: skip
        async with making.request(method, f"/api/v1/schedules/nigthly{path}") as response:
            problem = await response.json(content_type="application/problem+json")
            assert (response.status, 'did you mean "nightly"?' in problem["detail"]) == (404, True), f"{method} {path}: {problem}"


async def test_who_may_only_look_changes_nothing(guarded: Site) -> None:
    """With a token set, whoever brings none."""
    await guarded.get(NIGHTLY)
    for method, path in (
        ("POST", "/trigger"),
        ("POST", "/pause"),
        ("POST", "/skip-next"),
        ("DELETE", "/skip-next"),
        ("PATCH", ""),
        ("DELETE", ""),
    ):
        async with guarded.request(method, f"{NIGHTLY}{path}") as response:
            assert response.status == 401
