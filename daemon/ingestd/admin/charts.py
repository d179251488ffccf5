"""The page's chart: a measure of a rollup over time, or the jobs finished a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import asyncpg

from ingestd.admin.words import number
from ingestd.jobs.store import statistics

MAX_SERIES = 6
MAX_BUCKETS = 400
JOBS_KEY = "jobs"
JOBS_WINDOW = timedelta(hours=1)
DAY_S = 86400

Points = Sequence[tuple[datetime, float | None, str]]


@dataclass(frozen=True, slots=True)
class Row:
    """One bucket: `at` in Unix seconds, its label, and one number a series."""

    at: float
    label: str
    numbers: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, its choices and its words.

    Args:
        key: names this chart among the choices.
        choices: groups of (key, label).
        waiting: what to say while there is nothing to draw.
    """

    key: str
    title: str
    subtitle: str
    zone: str
    step_s: float
    series: tuple[str, ...]
    rows: tuple[Row, ...]
    summary: str
    choices: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()
    waiting: str = "Nothing to draw yet."

    @property
    def latest(self) -> tuple[float | None, ...]:
        """The numbers of the last bucket."""
        return self.rows[-1].numbers if self.rows else ()


def human(name: str) -> str:
    """A name as a phrase: `mean_delay` reads `Mean delay`."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


async def jobs_chart(conn: asyncpg.Connection, now: datetime) -> Chart:
    """Jobs finished a minute, over the last hour."""
    found = {row["minute"]: row for row in await statistics.per_minute(conn, JOBS_WINDOW)}
    start = now.replace(second=0, microsecond=0) - JOBS_WINDOW
    minutes = [start + timedelta(minutes=i) for i in range(int(JOBS_WINDOW.total_seconds() // 60) + 1)]
    counts = [tuple(float((found.get(minute) or {}).get(name) or 0) for name in ("succeeded", "failed")) for minute in minutes]
    rows = tuple(Row(minute.timestamp(), f"{minute:%H:%M}", count) for minute, count in zip(minutes, counts, strict=True))
    good, bad = (sum(count[i] for count in counts) for i in (0, 1))
    summary = f"{number(good)} jobs succeeded and {number(bad)} failed within the last hour."
    return Chart(JOBS_KEY, "Jobs finished", "a minute, last hour, UTC", "UTC", 60, ("succeeded", "failed"), rows, summary)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A measure of a rollup that is to be drawn."""

    rollup: str
    measure: str
    source: str
    step_s: float
    zone: str
    group_by: Sequence[str]


def rollup_chart(drawn: Drawn, points: Points, waiting: str) -> Chart:
    """One measure of a rollup, its largest groups.

    Args:
        points: (bucket, value, group), in any order.
        waiting: what to say where there are none.
    """
    zone = _zone(drawn.zone)
    by_group: dict[str, dict[datetime, float | None]] = {}
    for bucket, value, group in points:
        by_group.setdefault(group, {})[bucket] = value
    weight = {group: sum(abs(value or 0) for value in values.values()) for group, values in by_group.items()}
    groups = sorted(by_group, key=lambda group: (-weight[group], group))[:MAX_SERIES]
    buckets = sorted({bucket for group in groups for bucket in by_group[group]})[-MAX_BUCKETS:]
    names = tuple(group or human(drawn.measure) for group in groups)
    rows = tuple(
        Row(bucket.timestamp(), _label(bucket, zone, drawn.step_s), tuple(by_group[group].get(bucket) for group in groups))
        for bucket in buckets
    )
    return Chart(
        f"{drawn.rollup}.{drawn.measure}",
        human(drawn.measure) + (f" by {', '.join(drawn.group_by)}" if drawn.group_by else ""),
        f"{drawn.source}, {_every(drawn.step_s)}, {drawn.zone}",
        str(zone),
        drawn.step_s,
        names,
        rows,
        _summary(names, rows, len(by_group)),
        waiting=waiting,
    )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def _every(step_s: float) -> str:
    return {float(DAY_S): "a day", 3600.0: "an hour", 60.0: "a minute"}.get(step_s) or f"each {step_s / 60:g} min"


def _label(bucket: datetime, zone: ZoneInfo, step_s: float) -> str:
    local = bucket.astimezone(zone)
    return f"{local:%a} {local.day} {local:%b %Y}" if step_s >= DAY_S else f"{local.day} {local:%b %Y %H:%M}"


def _summary(names: Sequence[str], rows: Sequence[Row], groups: int) -> str:
    peak = max(
        ((value, name, row.label) for row in rows for name, value in zip(names, row.numbers, strict=True) if value is not None),
        default=None,
    )
    if peak is None:
        return "No values yet."
    shown = f"{len(names)} series" if len(names) > 1 else "One series"
    if groups > len(names):
        shown = f"The {len(names)} largest of {groups} groups"
    highest = f"{number(round(peak[0], 2))} ({peak[1]}, {peak[2]})"
    return f"{shown} over {len(rows)} buckets, {rows[0].label} to {rows[-1].label}; highest {highest}."
