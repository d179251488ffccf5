"""Which rollups can be drawn, and the drawing of one."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from ingestd.admin.charts import JOBS_KEY, MAX_BUCKETS, Chart, Drawn, Points, human, rollup_chart
from ingestd.admin.words import number
from ingestd.rollups.buckets import parse_bucket
from ingestd.rollups.reads import RollupStatus, series

Choices = list[tuple[str, list[tuple[str, str]]]]
NO_GROUP = "(none)"
MAX_POINTS = 20_000


def choices_of(rollups: Sequence[RollupStatus]) -> Choices:
    """All charts there are: each measure of each rollup, then the jobs."""
    found = [(human(rollup.name), _measures(rollup)) for rollup in rollups if rollup.view is not None]
    return [*found, ("Daemon", [(JOBS_KEY, "Jobs finished")])]


def _measures(rollup: RollupStatus) -> list[tuple[str, str]]:
    return [(f"{rollup.name}.{measure}", f"{human(rollup.name)}: {human(measure).lower()}") for measure in rollup.measures]


async def rollup_chart_of(conn: asyncpg.Connection, rollups: Sequence[RollupStatus], key: str) -> Chart | None:
    """The chart of that key, or None where it is not a rollup's."""
    name, _, measure = key.partition(".")
    rollup = next((rollup for rollup in rollups if rollup.name == name), None)
    if rollup is None or measure not in rollup.measures:
        return None
    step_s = parse_bucket(rollup.bucket).total_seconds()
    drawn = Drawn(rollup.name, measure, rollup.source, step_s, rollup.timezone, rollup.group_by)
    # A wide rollup has fewer buckets drawn; one too wide for a picture has none.
    width = rollup.rows // max(rollup.buckets, 1)
    if width > MAX_POINTS:
        return rollup_chart(drawn, [], f"Too many groups to draw: about {number(width)} in a bucket.")
    found = await series(conn, name, measure, limit=max(min(MAX_BUCKETS, MAX_POINTS // max(width, 1)), 1))
    points: Points = [
        (point.bucket, point.value, ", ".join(NO_GROUP if value is None else str(value) for value in point.group.values()))
        for point in found
        if not isinstance(point.value, str)
    ]
    return rollup_chart(drawn, points, rollup.reason or "Nothing to draw yet.")
