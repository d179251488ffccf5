"""History, statistics, last and status of schedules, imports, workflows and kinds, as the API answers."""

from __future__ import annotations

import asyncpg
import pytest

from ingestd.admin.cursors import Cursors
from ingestd.imports.settings import ImportSettings
from tests.admin.conftest import Open, Site
from tests.admin.rows import new_load, take
from tests.admin.runs import PATHS, RUN, STATISTICS, STATUS, THINGS, new_job, new_slot, three_of_everything
from tests.schedule.conftest import declare


@pytest.fixture
async def site(open_site: Open, conn: asyncpg.Connection) -> Site:
    """Three runs of everything: one that failed, one that succeeded, and one that failed after it."""
    await three_of_everything(conn)
    imports = {"readings": ImportSettings(source="/in/*.csv", table="readings"), "empty": ImportSettings(source="/e/*", table="e")}
    return await open_site(state={"imports": lambda: imports, "workflows": lambda: {"market": object(), "never": object()}})


@pytest.mark.parametrize(("what", "name"), THINGS)
async def test_all_four_have_one_shape(site: Site, what: str, name: str) -> None:
    base = f"/api/v1/{PATHS[what]}/{name}"
    history = await site.get(f"{base}/history")
    assert [run["state"] for run in history["items"]] == ["failed", "succeeded", "failed"]
    assert all(run.keys() == RUN for run in history["items"])
    assert all(run["started_at"] and run["finished_at"] and run["duration_ms"] is not None for run in history["items"])

    numbers = await site.get(f"{base}/statistics")
    assert numbers.keys() == STATISTICS
    assert (numbers["type"], numbers["name"], numbers["days"], len(numbers["timeline"])) == (what, name, 30, 30)
    assert (numbers["runs"], numbers["by_state"], numbers["success_rate"]) == (3, {"succeeded": 1, "failed": 2}, 1 / 3)
    assert numbers["consecutive_failures"] == 1
    assert numbers["duration_ms"]["exact"] is (what != "kind")
    assert sum(day["runs"] for day in numbers["timeline"]) == 3

    last = await site.get(f"{base}/last")
    assert [last[which]["state"] for which in ("run", "last_success", "last_failure")] == ["failed", "succeeded", "failed"]
    assert last["run"] == history["items"][0]

    status = await site.get(f"{base}/status")
    assert status.keys() == STATUS
    assert (status["state"], status["healthy"], status["consecutive_failures"]) == ("idle", True, 1)
    assert status["last_run"]["id"] == history["items"][0]["id"]


@pytest.mark.parametrize(("what", "name"), THINGS)
async def test_pages_and_filters_go_through_a_history_once(site: Site, conn: asyncpg.Connection, what: str, name: str) -> None:
    base = f"/api/v1/{PATHS[what]}/{name}/history"
    whole = [run["id"] for run in (await site.get(base))["items"]]
    paged, cursor = [], ""
    while cursor is not None:
        page = await site.get(f"{base}?limit=1" + (f"&cursor={cursor}" if cursor else ""))
        paged += [run["id"] for run in page["items"]]
        cursor = page["next_cursor"]
    assert paged == whole
    assert [run["id"] for run in (await site.get(f"{base}?state=succeeded,partial"))["items"]] == [whole[1]]
    assert [run["id"] for run in (await site.get(f"{base}?state=failed"))["items"]] == [whole[0], whole[2]]
    for state in ("partial", "cancelled", "skipped", "missed", "running", "waiting"):
        assert (await site.get(f"{base}?state={state}"))["items"] == [], state
    assert (await site.get(f"{base}?triggered_by=page"))["items"] == []
    by = (await site.get(base))["items"][0]["triggered_by"]
    assert len((await site.get(f"{base}?triggered_by={by}"))["items"]) == 3
    assert 'did you mean "folder"?' in (await site.get(f"{base}?triggered_by=foldr", 400))["detail"]


@pytest.mark.parametrize(("what", "name"), [*THINGS[:1], ("import", "empty"), ("workflow", "never"), ("kind", "load")])
async def test_what_never_ran_has_empty_records(open_site: Open, site: Site, conn: asyncpg.Connection, what: str, name: str) -> None:
    await conn.execute("truncate ingestd.slot")
    base = f"/api/v1/{PATHS[what]}/{name}"
    assert await site.get(f"{base}/history") == {"items": [], "next_cursor": None}
    numbers = await site.get(f"{base}/statistics?days=2")
    assert (numbers["runs"], numbers["success_rate"], numbers["duration_ms"]["mean"]) == (0, None, None)
    assert [day["runs"] for day in numbers["timeline"]] == [0, 0]
    assert (await site.get(f"{base}/last"))["run"] is None
    status = await site.get(f"{base}/status")
    assert (status["state"], status["last_run"], status["healthy"]) == ("idle", None, True)


@pytest.mark.parametrize("what", PATHS)
async def test_what_is_not_there_is_not_found_with_the_nearest(site: Site, what: str) -> None:
    near = {"schedule": "nightli", "import": "reading", "workflow": "markt", "kind": "sync_price"}[what]
    for word in ("history", "statistics", "last", "status"):
        problem = await site.get(f"/api/v1/{PATHS[what]}/{near}/{word}", 404)
        assert f'there is no {what} "{near}"' in problem["detail"]
        assert "did you mean" in problem["detail"] + (problem.get("hint") or "")


async def test_three_failures_in_a_row_are_unhealthy_and_others_between_them_do_not_count(site: Site, conn: asyncpg.Connection) -> None:
    for state in ("cancelled", "failed", "failed"):
        await new_job(conn, "sync_prices", state)
    status = await site.get("/api/v1/kinds/sync_prices/status")
    assert (status["healthy"], status["consecutive_failures"], status["problems"]) == (False, 3, ["its last 3 runs failed"])
    await new_job(conn, "sync_prices", "partial")
    status = await site.get("/api/v1/kinds/sync_prices/status")
    assert (status["healthy"], status["consecutive_failures"], status["last_run"]["state"]) == (True, 0, "partial")


async def test_what_runs_and_what_waits_is_told_apart(site: Site, conn: asyncpg.Connection) -> None:
    running, waiting = await new_job(conn, "sync_prices"), await new_job(conn, "sync_prices")
    await take(conn, running)
    base = "/api/v1/kinds/sync_prices"
    assert [run["id"] for run in (await site.get(f"{base}/history?state=running"))["items"]] == [str(running)]
    assert [run["id"] for run in (await site.get(f"{base}/history?state=waiting"))["items"]] == [str(waiting)]
    assert [run["id"] for run in (await site.get(f"{base}/history?state=running,waiting"))["items"]] == [str(waiting), str(running)]
    assert [run["state"] for run in (await site.get(f"{base}/history?limit=3"))["items"]] == ["waiting", "running", "failed"]
    status = await site.get(f"{base}/status")
    assert (status["state"], status["running_job_id"], status["consecutive_failures"]) == ("running", str(running), 1)
    assert (await site.get(f"{base}/statistics"))["runs"] == 3

    await conn.execute("update ingestd.workflow_run set state = 'compensating', finished_at = null where id = 3")
    await conn.execute("update ingestd.load set status = 'pending', job_id = $1 where id = 3", running)
    await conn.execute("update ingestd.slot set ended = null, job_id = $1 where due_at > now() - interval '8.5 min'", running)
    for what, name in THINGS[:3]:
        items = (await site.get(f"/api/v1/{PATHS[what]}/{name}/history?state=running"))["items"]
        assert [run["state"] for run in items] == ["running"], what
        assert (await site.get(f"/api/v1/{PATHS[what]}/{name}/status"))["state"] == "running"
        assert (await site.get(f"/api/v1/{PATHS[what]}/{name}/statistics"))["runs"] == 2


async def test_a_slot_whose_job_has_only_just_ended_tells_how(site: Site, conn: asyncpg.Connection) -> None:
    job = await new_job(conn, "sync_prices", "failed")
    await conn.execute("insert into ingestd.slot (schedule, due_at, state, job_id) values ('nightly', now(), 'fired', $1)", job)
    run = (await site.get("/api/v1/schedules/nightly/last"))["run"]
    assert (run["state"], run["job_id"], run["reason"], run["error"]["class"]) == ("failed", str(job), "boom", "ValueError")


async def test_missed_and_skipped_slots_count_with_what_they_stand_for(site: Site, conn: asyncpg.Connection) -> None:
    await new_slot(conn, "nightly", 3, "missed", reason="nothing was running", slots=40)
    await new_slot(conn, "nightly", 2, "skipped", reason="paused by ada")
    numbers = await site.get("/api/v1/schedules/nightly/statistics?days=2")
    assert numbers["by_state"] == {"succeeded": 1, "failed": 2, "skipped": 1, "missed": 40}
    assert (numbers["success_rate"], numbers["consecutive_failures"]) == (1 / 3, 1)
    skipped, missed = (await site.get("/api/v1/schedules/nightly/history?state=missed,skipped"))["items"]
    assert (skipped["state"], skipped["reason"], skipped["job_id"]) == ("skipped", "paused by ada", None)
    assert (missed["state"], missed["counts"]["slots"]) == ("missed", 40)


async def test_an_import_totals_what_went_into_its_table(site: Site, conn: asyncpg.Connection) -> None:
    await new_load(conn, "readings", "p.csv", status="partial", read=5, inserted=3, rejected=2)
    numbers = await site.get("/api/v1/imports/readings/statistics")
    assert numbers["totals"] == {"read": 9, "inserted": 7, "updated": 0, "unchanged": 0, "rejected": 2, "superseded": 0, "bytes": 20}
    assert numbers["success_rate"] == 0.5
    run = (await site.get("/api/v1/imports/readings/last"))["run"]
    assert (run["subject"], run["state"], run["counts"]["rejected"]) == ("p.csv", "partial", 2)


async def test_a_failed_run_of_a_workflow_says_which_step(site: Site) -> None:
    run = (await site.get("/api/v1/workflows/market/last"))["last_failure"]
    assert (run["reason"], run["counts"]) == ("merge: it broke", {"failed": 1, "succeeded": 1})


async def test_days_begin_where_the_schedule_is_unless_somebody_asks_otherwise(site: Site) -> None:
    assert (await site.get("/api/v1/schedules/nightly/statistics"))["timezone"] == "Asia/Kathmandu"
    assert (await site.get("/api/v1/imports/readings/statistics"))["timezone"] == "UTC"
    assert (await site.get("/api/v1/schedules/nightly/statistics?timezone=Europe/Berlin"))["timezone"] == "Europe/Berlin"
    numbers = await site.get("/api/v1/kinds/sync_prices/statistics?days=366&timezone=Australia/Lord_Howe")
    assert (len(numbers["timeline"]), numbers["from"][11:16] in ("13:00", "13:30")) == (366, True)


async def test_bad_questions_are_answered_with_what_is_wrong(site: Site) -> None:
    base = "/api/v1/schedules/nightly"
    assert "1 to 366" in (await site.get(f"{base}/statistics?days=367", 400))["detail"]
    assert "1 to 366" in (await site.get(f"{base}/statistics?days=0", 400))["detail"]
    assert "Europe/Berlin" in (await site.get(f"{base}/statistics?timezone=Europe/Berln", 400))["detail"]
    assert 'did you mean "failed"' in (await site.get(f"{base}/history?state=faild", 400))["detail"]
    assert "cursor" in (await site.get(f"{base}/history?cursor=x", 400))["detail"]
    assert "is not a time zone" in (await site.get(f"{base}/statistics?timezone=../../etc/passwd", 400))["detail"]
    assert "unknown" in (await site.get(f"{base}/last?days=3", 400))["detail"]


@pytest.mark.parametrize(("what", "name"), THINGS)
async def test_a_cursor_beyond_everything_is_a_page_like_any_other(site: Site, what: str, name: str) -> None:
    base = f"/api/v1/{PATHS[what]}/{name}/history"
    cursors = Cursors(await site.state.cursor_key(), base, {})
    assert len((await site.get(f"{base}?cursor={cursors.write(2**63 - 1)}"))["items"]) == 3
    assert (await site.get(f"{base}?cursor={cursors.write(1)}"))["items"] == []
    assert (await site.get(f"{base}?triggered_by=a%00b", 400))["status"] == 400


async def test_a_thing_that_pauses_says_so_and_when_it_is_next(site: Site, conn: asyncpg.Connection) -> None:
    await declare(conn, {"hourly": {"every": "1h", "job": "sync_prices"}})
    due = await conn.fetchval("select next_due_at from ingestd.schedule where name = 'hourly'")
    assert (await site.get("/api/v1/kinds/sync_prices/status"))["next_due_at"].startswith(f"{due:%Y-%m-%dT%H:%M}")
    await conn.execute("update ingestd.schedule set paused_at = now(), paused_by = 'ada', problem = 'no such zone'")
    status = await site.get("/api/v1/schedules/hourly/status")
    assert (status["state"], status["paused_by"], status["healthy"], status["problems"]) == ("paused", "ada", False, ["no such zone"])
    assert (await site.get("/api/v1/kinds/sync_prices/status"))["next_due_at"] is None
    await conn.execute("update ingestd.queue set paused_at = now(), paused_by = 'bob' where name = 'imports'")
    status = await site.get("/api/v1/imports/readings/status")
    assert (status["state"], status["paused_by"]) == ("paused", "bob")
