"""Jobs as people look at them: open ones and history as one list, filtered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ingestd.jobs import facts
from ingestd.jobs.model import PARKED_DEPENDENCY, State
from ingestd.jobs.store import reads
from ingestd.jobs.store.reads import JobFilter
from tests.jobs.kit import end, new, put_back, take


@pytest.fixture
async def jobs(conn: asyncpg.Connection) -> dict[str, int]:
    """One job in every state, by state."""
    made = {}
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.SKIPPED):
        made[str(state)] = await new(conn, "done", tags=("over",), triggered_by="schedule")
        await end(conn, made[str(state)], state)
    made["partial"] = await new(conn, "done")
    await end(conn, made["partial"], partial=True)
    made["retrying"] = await new(conn, "again")
    (job,) = await take(conn)
    await put_back(conn, job, delay=timedelta(hours=1), spent=True, attempt={"n": 1, "outcome": "retry", "error": {"message": "no"}})
    made["running"] = await new(conn, "busy", queue="imports")
    await take(conn)
    made["scheduled"] = await new(conn, "later", run_at=datetime.now(UTC) + timedelta(hours=1))
    made["blocked"] = await new(conn, "waits", parked=PARKED_DEPENDENCY)
    made["available"] = await new(conn, "ready", tags=("a", "b"), priority=10)
    return made


async def numbers(conn: asyncpg.Connection, limit: int = 50, **which: object) -> list[int]:
    if "state" in which:
        which["states"] = (which.pop("state"),)
    return [job["id"] for job in await reads.list_jobs(conn, JobFilter(**which), limit)]  # type: ignore[arg-type]


async def test_each_state_is_found_and_shown(conn: asyncpg.Connection, jobs: dict[str, int]) -> None:
    for state, number in jobs.items():
        assert number in await numbers(conn, state=state)
        shown = await reads.show_job(conn, number)
        assert shown is not None
        assert shown["state"] == ("succeeded" if state == "partial" else state)
        assert shown["partial"] == (state == "partial")
    for state in State:
        expected = {number for name, number in jobs.items() if name == state or (state == "succeeded" and name == "partial")}
        assert set(await numbers(conn, state=str(state))) == expected


async def test_the_newest_come_first_and_pages_go_on_where_the_last_one_ended(conn: asyncpg.Connection, jobs: dict[str, int]) -> None:
    everything = await numbers(conn)
    assert everything == sorted(jobs.values(), reverse=True)
    paged: list[int] = []
    while page := await numbers(conn, 3, before_id=paged[-1] if paged else None):
        paged += page
    assert paged == everything


async def test_filters_narrow_and_combine(conn: asyncpg.Connection, jobs: dict[str, int]) -> None:
    assert await numbers(conn, kind="ready") == [jobs["available"]]
    assert await numbers(conn, queue="imports") == [jobs["running"]]
    assert await numbers(conn, tag="a") == [jobs["available"]]
    assert await numbers(conn, tag="over", state="failed") == [jobs["failed"]]
    assert len(await numbers(conn, triggered_by="schedule")) == 4
    assert await numbers(conn, kind="ready", queue="imports") == []
    assert await numbers(conn, ids=(jobs["blocked"],)) == [jobs["blocked"]]
    now = await conn.fetchval("select now()")
    assert await numbers(conn, since=now) == []
    assert len(await numbers(conn, until=now + timedelta(seconds=1))) == len(jobs)


async def test_what_a_job_waits_for_is_told(conn: asyncpg.Connection, jobs: dict[str, int]) -> None:
    reasons = {job["id"]: job["reason"] for job in await reads.list_jobs(conn)}
    assert reasons[jobs["blocked"]] == "waits for earlier steps"
    assert reasons[jobs["available"]] == 'no live node knows the kind "ready"'
    retrying = await reads.show_job(conn, jobs["retrying"])
    assert retrying is not None
    assert (retrying["error"], retrying["attempt"], len(retrying["attempts"])) == ({"message": "no"}, 1, 1)
    assert retrying["priority"] == "normal"
    assert (await reads.list_jobs(conn, JobFilter(kind="ready")))[0]["priority"] == "high"


async def test_a_job_that_is_not_there_is_none(conn: asyncpg.Connection) -> None:
    assert await reads.show_job(conn, 4711) is None


async def test_counts_and_ages_are_of_open_jobs(conn: asyncpg.Connection, jobs: dict[str, int]) -> None:
    counts = {(row["queue"], row["state"]): row["n"] for row in await reads.counts(conn)}
    assert counts == {("imports", "running"): 1, **{("default", state): 1 for state in ("retrying", "scheduled", "blocked", "available")}}
    ages = await reads.oldest_ages(conn)
    assert ages.keys() == {"default"}
    assert 0 <= ages["default"] < 60


async def test_facts_tell_of_jobs_that_wait_too_long_and_of_held_keys(conn: asyncpg.Connection, jobs: dict[str, int]) -> None:
    found = facts.facts()
    gauges = {(gauge.name, *(gauge.labels or {}).values()): gauge.value for gauge in await found.gauges(conn)}  # type: ignore[misc]
    assert gauges["jobs", "default", "available"] == 1
    assert {check.status for check in await found.checks(conn)} == {"healthy"}  # type: ignore[misc]
    await conn.execute("update ingestd.job set run_at = now() - interval '10 minutes' where id = $1", jobs["available"])
    await conn.execute("insert into ingestd.key_hold (key, job_id) values ('table:x', 5)")
    checks = {check.name: check for check in await found.checks(conn)}  # type: ignore[misc]
    waits, held = checks["queues"], checks["key_holds"]
    assert (waits.status, held.status, held.value) == ("degraded", "degraded", "table:x behind job 5")
