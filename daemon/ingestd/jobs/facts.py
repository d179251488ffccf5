"""What the queue knows about itself."""

from __future__ import annotations

from collections.abc import Callable, Collection

import asyncpg

from ingestd.facts import Check, Gauge, RoomFacts
from ingestd.jobs.failing import failure_check, failure_gauges
from ingestd.jobs.records import Streak
from ingestd.jobs.store import history, kind_records, reads, run_records, steps
from ingestd.jobs.store.retention import clear

OLD_AFTER_S = 300.0


async def gauges(conn: asyncpg.Connection) -> list[Gauge]:
    """Open jobs by queue and state, and how long the oldest that could run has waited."""
    found: list[Gauge] = []
    for row in await reads.counts(conn):
        labels = {"queue": row["queue"], "state": row["state"]}
        found.append(Gauge("jobs", float(row["n"]), "Open jobs by queue and state.", labels))
    for queue, age in (await reads.oldest_ages(conn)).items():
        found.append(Gauge("queue_oldest_age_seconds", age, "How long the oldest due job has waited.", {"queue": queue}))
    return found


async def checks(conn: asyncpg.Connection) -> list[Check]:
    """Whether jobs wait too long, whether failed ones hold others up, and whether runs were taken back only in part."""
    ages = await reads.oldest_ages(conn)
    queue, age = max(ages.items(), key=lambda item: item[1], default=("", 0.0))
    waits = Check(
        "queues",
        "degraded" if age > OLD_AFTER_S else "healthy",
        f"oldest due job has waited {age:.0f} s" + (f" in {queue}" if queue else ""),
        f"{OLD_AFTER_S:.0f} s",
        hint="raise the queue's concurrency, or look for a paused queue or an unknown kind" if age > OLD_AFTER_S else "",
    )
    holds = await history.key_holds(conn)
    held = Check(
        "key_holds",
        "degraded" if holds else "healthy",
        ", ".join(f"{row['key']} behind job {row['job_id']}" for row in holds) or "none",
        "0",
        since=holds[0]["since"] if holds else None,
        hint="retry or skip the failed job; the ones behind it wait" if holds else "",
    )
    return [waits, held, await _taken_back(conn)]


async def _taken_back(conn: asyncpg.Connection) -> Check:
    """Whether runs of workflows ended half taken back."""
    runs = await steps.not_undone(conn)
    return Check(
        "compensations",
        "degraded" if runs else "healthy",
        "; ".join(f"run {row['id']} of {row['workflow']}: {', '.join(row['steps'])}" for row in runs) or "none is missing",
        "0",
        since=runs[-1]["finished_at"] if runs else None,
        hint=f"what these steps did is still there: `ingestd workflows retry {runs[0]['id']}` takes it back" if runs else "",
    )


def facts(workflows: Callable[[], Collection[str]] = tuple, failures_in_a_row: Callable[[], int] = lambda: 3) -> RoomFacts:
    """The queue's gauges and checks, and what it forgets.

    Args:
        workflows: those that are declared; the kinds are those that a living node runs.
        failures_in_a_row: so many make one unhealthy.
    """

    async def all_gauges(conn: asyncpg.Connection) -> list[Gauge]:
        runs = await run_records.streaks(conn, list(workflows()))
        kinds = await kind_records.live_kinds(conn)
        failing = dict.fromkeys(kinds, Streak()) | await kind_records.failing(conn, kinds)
        return [*await gauges(conn), *failure_gauges("workflow", runs), *failure_gauges("kind", failing)]

    async def all_checks(conn: asyncpg.Connection) -> list[Check]:
        runs = await run_records.streaks(conn, list(workflows()))
        kinds = await kind_records.failing(conn, await kind_records.live_kinds(conn))
        most = failures_in_a_row()
        return [*await checks(conn), failure_check("workflow", runs, most), failure_check("kind", kinds, most)]

    return RoomFacts(gauges=all_gauges, checks=all_checks, clear=clear)
