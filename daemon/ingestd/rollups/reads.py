"""What people see of rollups: the list, one of them, and points for a chart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg

from ingestd.errors import InvalidInput, NotFound
from ingestd.rollups import sql
from ingestd.rollups.spec import Spec
from ingestd.rollups.store import reads, registry
from ingestd.settings import did_you_mean

SERIES_TIMEOUT = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class RollupStatus:
    """A rollup as people see it.

    Args:
        since: when the rollup began to wait, for its present reason, or was ready; `since_seconds` ago.
        state: waiting (reason says for what), building, dirty or current.
        staleness_seconds: age of the oldest change that is not in the table yet; the view has it all the same.
        dirty_ranges: stretches of buckets to recompute.
        rows: stored ones.
        view: name of what to read, None under flag shadow.
        successor: what a changed spec is at, None without one: waiting (with its reason) or building.
    """

    name: str
    source: str
    time: str
    bucket: str
    timezone: str
    group_by: tuple[str, ...]
    where: str
    measures: Mapping[str, str]
    flag: str
    state: str
    reason: str | None
    since: datetime
    since_seconds: float
    max_staleness: timedelta
    staleness_seconds: float
    dirty_ranges: int
    last_refresh: datetime | None
    last_refresh_ms: int | None
    buckets: int
    rows: int
    view: str | None
    table: str
    successor: str | None


def _status(row: asyncpg.Record) -> RollupStatus:
    spec = Spec.from_json(row["spec"])
    name = row["name"]
    if row["state"] == "waiting":
        state = "waiting"
    elif row["built_at"] is None:
        state = "building"
    else:
        state = "dirty" if row["dirty_ranges"] else "current"
    successor = None
    if row["succeeded"]:
        successor = f"waiting: {row['next_reason']}" if row["next_reason"] else "building"
    return RollupStatus(
        name=name,
        source=spec.source,
        time=spec.time,
        bucket=spec.as_json()["bucket"],
        timezone=spec.zone,
        group_by=spec.group_by,
        where=spec.where,
        measures={measure.name: measure.text for measure in spec.measures},
        flag=row["flag"],
        state=state,
        reason=row["reason"],
        since=row["since"],
        since_seconds=row["since_seconds"],
        max_staleness=row["max_staleness"],
        staleness_seconds=row["staleness_seconds"] or 0.0,
        dirty_ranges=row["dirty_ranges"],
        last_refresh=row["last_refresh_at"],
        last_refresh_ms=row["last_refresh_ms"],
        buckets=row["buckets"],
        rows=row["rows"],
        view=f"rollups.{name}" if row["exposed"] != "none" else None,
        table=f"rollups.{name}_stored",
        successor=successor,
    )


async def list_rollups(conn: asyncpg.Connection) -> list[RollupStatus]:
    """All declared rollups, by name."""
    return [_status(row) for row in await reads.listed(conn)]


async def rollup_status(conn: asyncpg.Connection, name: str) -> RollupStatus:
    """One rollup.

    Raises:
        NotFound: there is no such rollup.
    """
    rows = await reads.listed(conn, name)
    if not rows:
        names = [row["name"] for row in await reads.listed(conn)]
        raise NotFound(f'there is no rollup "{name}"{did_you_mean(name, names)}')
    return _status(rows[0])


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a measure.

    Args:
        group: group column -> value; empty without group_by.
    """

    bucket: datetime
    value: float | str | None
    group: Mapping[str, Any]


async def series(
    conn: asyncpg.Connection, name: str, measure: str, groups: Mapping[str, str | None] | None = None, limit: int = 60
) -> list[Point]:
    """Points of one measure from the exact view, oldest first; empty while there is nothing to read.

    Args:
        groups: group column -> the only value wanted, as text; None is NULL.
        limit: how many of the newest buckets.

    Raises:
        NotFound: there is no such rollup.
        InvalidInput: no such measure or group column.
    """
    rollup = await rollup_status(conn, name)
    if measure not in rollup.measures:
        raise InvalidInput(f'rollup "{name}" has no measure "{measure}"{did_you_mean(measure, rollup.measures)}', pointer="measure")
    wanted = dict(groups or {})
    for column in wanted:
        if column not in rollup.group_by:
            raise InvalidInput(f'rollup "{name}" has no group column "{column}"{did_you_mean(column, rollup.group_by)}', pointer="group")
    if rollup.state == "waiting" or rollup.view is None or await registry.oid_of(conn, name) is None:
        return []
    statement = sql.series(name, f"{name}_stored", measure, list(rollup.group_by), list(wanted))
    rows = await reads.read_only(conn, statement, [limit, *wanted.values()], SERIES_TIMEOUT)
    return [Point(row["bucket"], _number(row["value"]), row["group"]) for row in rows]


def _number(value: Any) -> float | str | None:
    if isinstance(value, bool) or value is None:
        return None if value is None else str(value)
    return float(value) if isinstance(value, (int, float, Decimal)) else str(value)
