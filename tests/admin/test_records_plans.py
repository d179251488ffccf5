"""What records read: a page costs a page and a window its rows, however much there is; statistics of kinds never touch history."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from ingestd.admin.records import Kept
from ingestd.imports.store import records as loads
from ingestd.jobs.records import RunFilter, Window, window
from ingestd.jobs.store import kind_records as jobs
from ingestd.jobs.store import run_records as runs
from ingestd.schedule.store import records as slots

ROWS = 60_000
# A page, or how it went lately, in blocks of 8 kB: what a descent into each partition's index costs, and the rows of the page.
PAGES = 1500
STORES = {"schedule": slots, "import": loads, "workflow": runs, "kind": jobs}
# Nearly all of it is `busy`; `rare` comes once in a thousand, and only long ago; `broken` has never succeeded.
NAME = "case when n % 1000 = 7 and n < 30000 then 'rare' when n % 500 = 9 then 'broken' else 'busy' end"
STATE = "case when n % 500 = 9 or n % 40 = 3 then 'failed' else 'succeeded' end"
FILL = (
    f"""insert into ingestd.history (keep, state, finished_at, id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at,
        created_at, key_strict, unique_until, args, attempts, tags, triggered_by)
    select case {STATE} when 'failed' then 'bad' else 'ok' end, {STATE}, now() + n * interval '8 s', n, {NAME}, 1, 0, 1, 1, 0, now(), now(),
           now(), false, 'finish', '{{}}', '[]', '{{}}', 'api' from generate_series(1, {ROWS}) n""",
    f"""insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
    select date_trunc('minute', now()) - n * interval '1 min', {NAME}, 1, {STATE}, 4, 1, 12 from generate_series(0, {ROWS}) n""",
    f"""insert into ingestd.slot (schedule, due_at, state, job_id, ended, ended_at, duration_ms)
    select {NAME}, now() + n * interval '20 s', 'fired', n, {STATE}, now(), 5 from generate_series(1, {ROWS}) n""",
    f"""insert into ingestd.workflow_run (workflow, state, definition, triggered_by, created_at, finished_at)
    select {NAME}, {STATE}, '{{}}', 'api', now() - (200000 - n) * interval '20 s', now() - (200000 - n) * interval '20 s'
    from generate_series(1, {ROWS}) n""",
    "insert into ingestd.file (sha256, size, store, path) values (sha256('x'), 1, gen_random_uuid(), 'x')",
    """insert into ingestd.arrival (import, store, path, name, size, mtime_ns, file_id)
    select 'x', store, 'x', 'x', 1, 1, id from ingestd.file""",
    f"""insert into ingestd.load (import, target, mode, arrival_id, file_id, file_name, status, read, inserted, updated, unchanged,
        rejected, superseded, bytes, triggered_by, finished_at, duration_ms)
    select {NAME}, 'public.t', 'append', a.id, a.file_id, 'f', {STATE}, 1, 1, 0, 0, 0, 0, 10, 'folder',
           now() - (200000 - n) * interval '20 s', 5 from generate_series(1, {ROWS}) n, ingestd.arrival a""",
    "vacuum analyze",
)


class Explaining:
    """A connection that keeps the plan of everything asked through it, as it was carried out."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn
        self.plans: list[dict[str, Any]] = []

    async def fetch(self, statement: str, *values: Any) -> Any:
        found = await self._conn.fetchval(f"explain (analyze, buffers, format json) {statement}", *values)
        self.plans.append((found if isinstance(found, list) else json.loads(found))[0]["Plan"])
        return await self._conn.fetch(statement, *values)

    async def fetchrow(self, statement: str, *values: Any) -> Any:
        return next(iter(await self.fetch(statement, *values)), None)

    @property
    def blocks(self) -> int:
        """Read or found in memory, by all of it."""
        return sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in self.plans)

    def nodes(self) -> Iterator[dict[str, Any]]:
        waiting = list(self.plans)
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.get("Plans", [])

    def whole_tables(self) -> set[str]:
        """Tables of more than a few rows that were read from end to end."""
        scans = [node for node in self.nodes() if node["Node Type"] == "Seq Scan"]
        rows = [(node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in scans]
        return {node["Relation Name"] for node, read in zip(scans, rows, strict=True) if read > 500}

    def tables(self) -> set[str]:
        return {node["Relation Name"] for node in self.nodes() if "Relation Name" in node}


@pytest.fixture
async def full(conn: asyncpg.Connection) -> asyncpg.Connection:
    """Large and skewed."""
    for statement in FILL:
        await conn.execute(statement)
    return conn


async def look(conn: asyncpg.Connection, what: Kept, name: str, which: RunFilter) -> Explaining:
    asked = Explaining(conn)
    await STORES[what].history(asked, name, which, 51)
    return asked


async def test_a_page_costs_a_page_and_a_window_its_rows(full: asyncpg.Connection) -> None:
    """By a plan for the values given, and by one made for any."""
    for mode in ("auto", "force_generic_plan"):
        await full.execute(f"set plan_cache_mode = {mode}")
        await _everything(full)


async def _everything(full: asyncpg.Connection) -> None:
    within = await _window(full)
    middle = {"schedule": slots.position(await full.fetchval("select now() + interval '7 days'"))}
    for what, store in STORES.items():
        for name in ("busy", "rare", "broken", "nothing"):
            for before in (None, middle.get(what, ROWS // 2)):
                asked = await look(full, what, name, RunFilter(before=before))
                assert (asked.whole_tables(), asked.blocks < PAGES) == (set(), True), (what, name, before, asked.blocks)
            asked = Explaining(full)
            await store.streaks(asked, [name])
            assert (asked.whole_tables(), asked.blocks < PAGES) == (set(), True), (what, name, asked.blocks)
        asked = Explaining(full)
        await store.counted(asked, "rare", within)
        assert (asked.whole_tables(), asked.blocks < PAGES) == (set(), True), (what, asked.blocks)


async def test_jobs_of_some_states_cost_a_page_too(full: asyncpg.Connection) -> None:
    for states in (("succeeded",), ("failed",), ("partial",), ("cancelled", "skipped", "failed"), ("running", "waiting")):
        for name in ("busy", "rare", "broken", "nothing"):
            asked = await look(full, "kind", name, RunFilter(states, before=ROWS // 2))
            assert (asked.whole_tables(), asked.blocks < PAGES) == (set(), True), (states, name, asked.blocks)


async def test_numbers_of_kinds_come_from_what_acks_counted(full: asyncpg.Connection) -> None:
    asked = Explaining(full)
    counted = await jobs.counted(asked, "busy", await _window(full))
    assert asked.tables() == {"job_stat"}
    assert sum(day.runs for day in counted.days) > 10_000
    # one window costs its own rows, not those of the year before
    assert asked.blocks < PAGES


async def test_many_kinds_are_asked_about_at_once_for_little(full: asyncpg.Connection) -> None:
    asked = Explaining(full)
    found = await jobs.failing(asked, ["busy", "broken", *(f"kind{number}" for number in range(40))])
    assert set(found) == {"busy", "broken"}
    assert (found["broken"].failures, found["broken"].last_success_at) == (ROWS // 500, None)
    assert (asked.whole_tables(), asked.blocks < 2 * PAGES) == (set(), True)


async def _window(conn: asyncpg.Connection) -> Window:
    return window(await conn.fetchval("select now()"), 30, ZoneInfo("UTC"))


async def test_what_runs_is_found_among_many_that_wait(conn: asyncpg.Connection) -> None:
    await conn.execute(
        """insert into ingestd.job (kind, queue_id, claim, node) select 'busy', 1, case when n = 7 then gen_random_uuid() end,
        case when n = 7 then gen_random_uuid() end from generate_series(1, 20000) n"""
    )
    await conn.execute("vacuum analyze ingestd.job")
    asked = await look(conn, "kind", "busy", RunFilter(("running",)))
    assert (asked.whole_tables(), asked.blocks < 50) == (set(), True), asked.blocks
