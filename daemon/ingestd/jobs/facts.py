"""What the queue knows about itself."""

from __future__ import annotations

import asyncpg

from ingestd.facts import Check, Gauge, RoomFacts
from ingestd.jobs.store import history, reads
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
    """Whether jobs wait too long, and whether failed ones hold others up."""
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
    return [waits, held]


def facts() -> RoomFacts:
    """The queue's gauges and checks, and what it forgets."""
    return RoomFacts(gauges=gauges, checks=checks, clear=clear)
