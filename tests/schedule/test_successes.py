"""What counts as a success of something that a schedule depends on."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from ingestd.app.successes import successes
from ingestd.schedule.dependencies import Question
from tests.schedule.past import finished, load

MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("state", "partial", "counts"),
    [("succeeded", False, True), ("succeeded", True, True), ("failed", False, False), ("cancelled", False, False)],
)
async def test_a_job_has_succeeded_when_history_says_so(conn: asyncpg.Connection, state: str, partial: bool, counts: bool) -> None:
    now = await conn.fetchval("select now()")
    await finished(conn, "sync", now - MINUTE, state, partial)
    asked = {Question("job", "sync", now - 2 * MINUTE), Question("job", "sync", now - MINUTE), Question("job", "other", now - 2 * MINUTE)}
    assert await successes(conn, asked) == ({Question("job", "sync", now - 2 * MINUTE)} if counts else set())


async def test_a_long_job_that_ended_last_counts_though_later_ones_began_behind_it(conn: asyncpg.Connection) -> None:
    now = await conn.fetchval("select now()")
    await finished(conn, "sync", now - MINUTE)
    for _ in range(3):
        await finished(conn, "sync", now - 5 * MINUTE)
    asked = Question("job", "sync", now - 2 * MINUTE)
    assert await successes(conn, {asked}) == {asked}


@pytest.mark.parametrize(("status", "counts"), [("succeeded", True), ("partial", True), ("failed", False), ("skipped", False)])
async def test_an_import_has_succeeded_when_a_load_of_it_has(conn: asyncpg.Connection, status: str, counts: bool) -> None:
    now = await conn.fetchval("select now()")
    await load(conn, "prices", now - MINUTE, status)
    asked = {
        Question("import", "prices", now - 2 * MINUTE),
        Question("import", "prices", now),
        Question("import", "stock", now - 2 * MINUTE),
    }
    assert await successes(conn, asked) == ({Question("import", "prices", now - 2 * MINUTE)} if counts else set())


async def test_an_import_that_found_nothing_new_has_succeeded_too(conn: asyncpg.Connection) -> None:
    now = await conn.fetchval("select now()")
    await finished(conn, "import", now - MINUTE, args={"import": "prices"})
    await finished(conn, "import", now, "failed", args={"import": "stock"})
    asked = {Question("import", name, now - 2 * MINUTE) for name in ("prices", "stock", "other")} | {Question("import", "prices", now)}
    assert await successes(conn, asked) == {Question("import", "prices", now - 2 * MINUTE)}


@pytest.mark.parametrize(("newest", "counts"), [("failed", False), ("skipped", True), ("succeeded", True)])
async def test_a_scan_behind_a_failed_load_is_no_success(conn: asyncpg.Connection, newest: str, counts: bool) -> None:
    """It finds nothing new, since what failed is known already; nobody has that file's data all the same."""
    now = await conn.fetchval("select now()")
    await load(conn, "prices", now - 9 * MINUTE)
    await load(conn, "prices", now - 5 * MINUTE, newest)
    await finished(conn, "import", now - MINUTE, args={"import": "prices"})
    asked = {Question("import", "prices", now - 2 * MINUTE)}
    assert await successes(conn, asked) == (asked if counts else set())


@pytest.mark.parametrize(("state", "counts"), [("succeeded", True), ("partial", True), ("failed", False), ("cancelled", False)])
async def test_a_workflow_has_succeeded_when_a_run_of_it_has(conn: asyncpg.Connection, state: str, counts: bool) -> None:
    now = await conn.fetchval("select now()")
    await conn.execute(
        "insert into ingestd.workflow_run (workflow, definition, state, triggered_by, finished_at) values ('w', '{}', $1, 'cli', $2)",
        state,
        now - MINUTE,
    )
    asked = {Question("workflow", "w", now - 2 * MINUTE), Question("workflow", "w", now), Question("workflow", "v", now - 2 * MINUTE)}
    assert await successes(conn, asked) == ({Question("workflow", "w", now - 2 * MINUTE)} if counts else set())
