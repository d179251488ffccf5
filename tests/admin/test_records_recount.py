"""The numbers of records equal what somebody counts who reads every run, whatever ran, when, and where days begin."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestd.admin import records
from ingestd.admin.records import Kept, Subject
from tests.schedule.conftest import declare
from tests.support import draw_in_a_thread

GOOD, BAD = {"succeeded", "partial"}, {"failed"}
ZONES = ("UTC", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo")
STATES: dict[Kept, tuple[str, ...]] = {
    "schedule": ("succeeded", "partial", "failed", "cancelled", "skipped", "missed", "fired"),
    "import": ("succeeded", "partial", "failed", "skipped", "pending"),
    "workflow": ("succeeded", "partial", "failed", "cancelled", "running", "waiting"),
    "kind": ("succeeded", "partial", "failed", "cancelled", "skipped"),
}
OPEN = {"fired", "pending", "running", "waiting"}
MOST_MINUTES = 60 * 24 * 62
EXAMPLES = 60


@dataclass(frozen=True)
class Drawn:
    """One run as drawn; the list has the oldest first."""

    state: str
    minutes_ago: int
    ms: int


def runs_of(what: Kept) -> st.SearchStrategy[list[Drawn]]:
    """Mostly close to now and of few states, so that runs meet on a day and failures follow each other."""
    ago = st.one_of(st.integers(0, 60 * 30), st.integers(0, MOST_MINUTES))
    run = st.builds(Drawn, st.sampled_from(STATES[what]), ago, st.integers(0, 100_000))
    return st.lists(run, max_size=25, unique_by=lambda drawn: drawn.minutes_ago)


async def fill_slots(conn: asyncpg.Connection, now: datetime, runs: list[Drawn]) -> list[Drawn]:
    for run in runs:
        due = now - timedelta(minutes=run.minutes_ago)
        ended = run.state if run.state not in ("skipped", "missed", "fired") else None
        await conn.execute(
            """insert into ingestd.slot (schedule, due_at, state, job_id, ended, ended_at, duration_ms)
            values ($1, $2, $3, $4, $5, $6, $7)""",
            "it", due, "fired" if ended else run.state, 1 if ended or run.state == "fired" else None, ended, ended and due,
            run.ms if ended else None,
        )  # fmt: skip
    # slots have the order of their times
    return sorted(runs, key=lambda run: -run.minutes_ago)


async def fill_loads(conn: asyncpg.Connection, now: datetime, runs: list[Drawn]) -> list[Drawn]:
    for run in runs:
        ended = None if run.state == "pending" else now - timedelta(minutes=run.minutes_ago)
        counts = [run.ms % 7, 1] if run.state in GOOD else [None, None]
        await conn.execute(
            """insert into ingestd.load (import, target, mode, arrival_id, file_id, file_name, status, read, inserted, updated, unchanged,
            rejected, superseded, bytes, triggered_by, finished_at, duration_ms)
            select 'it', 'public.it', 'append', a.id, a.file_id, 'f', $1, $2::bigint + 1, $2, 0, 0, $3, 0, 10, 'folder', $4::timestamptz,
                   case when $4::timestamptz is not null then $5::bigint end from ingestd.arrival a limit 1""",
            run.state, counts[0], counts[1], ended, run.ms,
        )  # fmt: skip
    return runs


async def fill_runs(conn: asyncpg.Connection, now: datetime, runs: list[Drawn]) -> list[Drawn]:
    for run in runs:
        ended = now - timedelta(minutes=run.minutes_ago)
        await conn.execute(
            """insert into ingestd.workflow_run (workflow, state, definition, triggered_by, created_at, finished_at)
            values ('it', $1, '{}', 'api', $2, $3)""",
            run.state, ended - timedelta(milliseconds=run.ms), None if run.state in OPEN else ended,
        )  # fmt: skip
    return runs


async def fill_jobs(conn: asyncpg.Connection, now: datetime, runs: list[Drawn]) -> list[Drawn]:
    """History as it is kept, and the deltas as acks write them."""
    for number, run in enumerate(runs, start=1):
        ended = now - timedelta(minutes=run.minutes_ago)
        state = "succeeded" if run.state == "partial" else run.state
        await conn.execute(
            """insert into ingestd.history (keep, state, partial, finished_at, id, kind, queue_id, rank, attempt, max_attempts, crashes,
            run_at, due_at, created_at, key_strict, unique_until, args, attempts, tags, triggered_by)
            values ($1, $2, $3, now(), $4, 'it', 1, 0, 1, 1, 0, now(), now(), now(), false, 'finish', '{}', '[]', '{}', 'api')""",
            "bad" if state == "failed" else "ok", state, run.state == "partial", number,
        )  # fmt: skip
        await conn.execute(
            """insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
            values (date_trunc('minute', $1::timestamptz), 'it', 1, $2, $3, 1, $4)""",
            ended, state, min(23, math.ceil(math.log2(max(run.ms, 1)))), run.ms,
        )  # fmt: skip
    return runs


Fill = Callable[[asyncpg.Connection, datetime, list[Drawn]], Awaitable[list[Drawn]]]
FILL: dict[Kept, Fill] = {"schedule": fill_slots, "import": fill_loads, "workflow": fill_runs, "kind": fill_jobs}


def nearest_rank(values: list[int], share: float) -> int | None:
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else None


def recount(what: Kept, runs: list[Drawn], now: datetime, days: int, zone: ZoneInfo) -> dict[str, Any]:
    """The same numbers, counted run by run."""
    first = now.astimezone(zone).date() - timedelta(days=days - 1)
    seen: list[tuple[str, Drawn]] = []
    for run in runs:
        # a kind's deltas know the minute
        at = now - timedelta(minutes=run.minutes_ago)
        day = at.astimezone(zone).date()
        if run.state not in OPEN and day >= first:
            seen.append((day.isoformat(), run))
    shown = {"partial": "succeeded"} if what == "kind" else {}
    states = Counter(shown.get(run.state, run.state) for _, run in seen)
    good, bad = sum(states[name] for name in GOOD), states["failed"]
    took = [run.ms for _, run in seen if run.state in GOOD | BAD]
    in_a_row = 0
    for run in reversed(runs):
        if run.state in GOOD:
            break
        in_a_row += run.state in BAD
    return {
        "runs": len(seen),
        "by_state": dict(states),
        "success_rate": good / (good + bad) if good + bad else None,
        "consecutive_failures": in_a_row,
        "mean": sum(took) / len(took) if took else None,
        "quantiles": [nearest_rank(took, share) for share in (0.5, 0.95, 0.99)] + [max(took, default=None)],
        "days": {day: number for day, number in Counter(day for day, _ in seen).items() if number},
        "day_means": {
            day: sum(ran) / len(ran)
            for day in {day for day, _ in seen}
            if (ran := [run.ms for at, run in seen if at == day and run.state in GOOD | BAD])
        },
        "read": sum(run.ms % 7 + 1 for _, run in seen if run.state in GOOD),
    }


def compare(what: Kept, found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("runs", "by_state", "success_rate", "consecutive_failures"):
        assert found[name] == expected[name], name
    spread = found["duration_ms"]
    if expected["mean"] is None:
        assert spread["mean"] is None
    else:
        assert abs(spread["mean"] - expected["mean"]) < 0.06
        quantiles = [spread[name] for name in ("p50", "p95", "p99", "max")]
        if what == "kind":
            quantiles = [(power // 2 if power > 1 else -1, power) for power in quantiles]
            assert all(low < true <= high for (low, high), true in zip(quantiles, expected["quantiles"], strict=True))
        else:
            assert quantiles == expected["quantiles"]
    assert {day["date"]: day["runs"] for day in found["timeline"] if day["runs"]} == expected["days"]
    means = {day["date"]: day["mean_ms"] for day in found["timeline"] if day["mean_ms"] is not None}
    assert means == {day: pytest.approx(mean, abs=0.06) for day, mean in expected["day_means"].items()}
    assert len(found["timeline"]) == found["days"]
    assert found["totals"] is None or found["totals"]["read"] == expected["read"]


@pytest.mark.parametrize("what", list(STATES))
async def test_statistics_equal_a_recount(conn: asyncpg.Connection, what: Kept) -> None:
    loop = asyncio.get_running_loop()
    await declare(conn, {"it": {"every": "1h"}})
    for months in range(4):
        await conn.execute("select ingestd.make_slot_partition(now() - make_interval(months => $1))", months)
    await conn.execute("insert into ingestd.file (sha256, size, store, path) values (sha256('x'), 1, gen_random_uuid(), 'x')")
    await conn.execute(
        """insert into ingestd.arrival (import, store, path, name, size, mtime_ns, file_id)
        select 'it', store, 'x', 'x', 1, 1, id from ingestd.file"""
    )

    async def holds_for(runs: list[Drawn], days: int, zone: ZoneInfo) -> None:
        transaction = conn.transaction()
        await transaction.start()
        try:
            now: datetime = await conn.fetchval("select date_trunc('minute', now())" if what == "kind" else "select now()")
            listed = await FILL[what](conn, now.astimezone(UTC), runs)
            of = Subject(what, "it", ["it"])
            if what == "kind" and not runs:
                return
            compare(what, await records.totals(conn, of, days, zone.key), recount(what, listed, now, days, zone))
        finally:
            await transaction.rollback()

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(runs_of(what), st.integers(1, 60), st.sampled_from(ZONES).map(ZoneInfo))
    def holds(runs: list[Drawn], days: int, zone: ZoneInfo) -> None:
        asyncio.run_coroutine_threadsafe(holds_for(runs, days, zone), loop).result(60)

    await draw_in_a_thread(holds)
