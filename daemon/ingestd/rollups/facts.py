"""What rollups tell about themselves to health and metrics."""

from __future__ import annotations

from datetime import timedelta

import asyncpg

from ingestd.facts import Check, Gauge, RoomFacts
from ingestd.rollups.reads import RollupStatus, list_rollups
from ingestd.settings import format_duration

GRACE = timedelta(minutes=2)
REFRESHED_FLAGS = ("on", "shadow")


def facts() -> RoomFacts:
    """The facts of this room."""
    return RoomFacts(gauges=_gauges, checks=_checks)


async def _gauges(conn: asyncpg.Connection) -> list[Gauge]:
    samples = []
    for rollup in await list_rollups(conn):
        labels = {"rollup": rollup.name}
        samples += [
            Gauge("rollup_staleness_seconds", rollup.staleness_seconds, "Age of the oldest change not in the stored buckets.", labels),
            Gauge("rollup_dirty_ranges", rollup.dirty_ranges, "Stretches of buckets to recompute.", labels),
            Gauge("rollup_rows", rollup.rows, "Stored rows.", labels),
            Gauge("rollup_waiting", float(rollup.state == "waiting"), "1 while the rollup waits for its source.", labels),
        ]
        if rollup.last_refresh is not None:
            moment = rollup.last_refresh.timestamp()
            samples.append(Gauge("rollup_last_refresh_timestamp_seconds", moment, "When the rollup was refreshed last.", labels))
    return samples


async def _checks(conn: asyncpg.Connection) -> list[Check]:
    rollups = await list_rollups(conn)
    stale = [rollup for rollup in rollups if _too_stale(rollup)]
    # A table that is yet to come is no fault; anything else that a rollup waits for is somebody's to mend.
    stuck = [
        rollup
        for rollup in rollups
        if rollup.reason is not None and not rollup.reason.endswith("does not exist yet") and rollup.since_seconds > GRACE.total_seconds()
    ]
    if stuck:
        first = stuck[0]
        return [Check("rollups", "degraded", f"{first.name}: {first.reason}", since=first.since, hint="ingestd rollups list")]
    if stale:
        first = max(stale, key=lambda rollup: rollup.staleness_seconds)
        return [
            Check(
                "rollups",
                "degraded",
                f"{first.name} is {first.staleness_seconds:.0f} s behind; its view is exact, only slower",
                f"max_staleness {format_duration(first.max_staleness)}",
                hint="look for failing jobs of kind rollup: ingestd jobs list --kind rollup",
            )
        ]
    waiting = sum(rollup.state == "waiting" for rollup in rollups)
    return [Check("rollups", "healthy", f"{len(rollups)} rollups" + (f", {waiting} waiting for a table" if waiting else ""))]


def _too_stale(rollup: RollupStatus) -> bool:
    limit = rollup.max_staleness * 2 + GRACE
    return rollup.flag in REFRESHED_FLAGS and rollup.state == "dirty" and rollup.staleness_seconds > limit.total_seconds()
