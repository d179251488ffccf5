"""Gathers what the page shows, from the rooms' own reads, in one snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from ingestd.access.roles import Actor
from ingestd.admin import rows, schedule_rows
from ingestd.admin.charts import Chart, jobs_chart
from ingestd.admin.rollup_charts import choices_of, rollup_chart_of
from ingestd.admin.state import AdminState
from ingestd.admin.store import loaded_lately
from ingestd.admin.view import JOB_TABS, View
from ingestd.admin.words import NONE, age, number, short_number
from ingestd.health.checks import Report
from ingestd.imports.store.reads import list_loads
from ingestd.jobs.store import reads, statistics
from ingestd.rollups.reads import RollupStatus, list_rollups
from ingestd.schedule.store import glance
from ingestd.schedule.store.reads import recent_slots_of
from ingestd.work.store import nodes

DAY = timedelta(days=1)
SPARK = timedelta(minutes=30)
JOBS_SHOWN = 10
LOADS_SHOWN = 7
SCHEDULES_SHOWN = 8
CHECKS_SHOWN = 12
WAITING = ("available", "scheduled", "blocked", "retrying")


@dataclass(frozen=True, slots=True)
class Tile:
    """One number at the top of the page."""

    label: str
    value: str
    note: str
    unit: str = ""
    tone: str = ""
    spark: Sequence[float] = ()


async def gather(conn: asyncpg.Connection, state: AdminState, report: Report, view: View, actor: Actor) -> dict[str, Any]:
    """Everything the templates need."""
    now = datetime.now(UTC)
    counts = await reads.counts(conn)
    rollups = await list_rollups(conn)
    schedules = await glance.urgent(conn, SCHEDULES_SHOWN)
    slots = await recent_slots_of(conn, [schedule["name"] for schedule in schedules], schedule_rows.STRIP)
    open_jobs = {name: sum(row["n"] for row in counts if row["state"] == name) for name in ("running", *WAITING)}
    waiting = sum(open_jobs[name] for name in WAITING)
    failed = sum(row["n"] for row in await statistics.totals(conn, DAY) if row["outcome"] == "failed")
    return {
        "now": now,
        "node": state.node,
        "environment": state.environment,
        "health": report,
        "checks": checks_shown(report),
        "can_act": actor.may("operate"),
        "view": view.fields(),
        "query": view.query(),
        "tiles": [_health(report), *await _tiles(conn, now, counts, open_jobs["running"], waiting, failed, rollups)],
        "chart": await _chart(conn, now, rollups, view),
        "jobs": [rows.job_row(job) for job in await _jobs(conn, view)],
        "job_tabs": _tabs(view, {"": None, "running": open_jobs["running"], "waiting": waiting, "failed": failed}),
        "loads": [rows.load_row(load) for load in await list_loads(conn, limit=LOADS_SHOWN)],
        "imports": sorted(state.imports()),
        "rollups": [rows.rollup_row(rollup) for rollup in rollups],
        "schedules": [schedule_rows.schedule_row(schedule, slots.get(schedule["name"], []), now) for schedule in schedules],
        "schedules_more": await glance.total(conn) - len(schedules),
        "workflows": [await _workflow(conn, name) for name in sorted(state.workflows())],
        "nodes": [rows.node_row(node) for node in await nodes(conn)],
    }


async def _jobs(conn: asyncpg.Connection, view: View) -> list[dict[str, Any]]:
    wanted: Mapping[str, tuple[str, ...]] = {"": (), "running": ("running",), "failed": ("failed",), "waiting": WAITING}
    found = await reads.list_jobs(conn, reads.JobFilter(states=wanted[view.jobs]), JOBS_SHOWN)
    if view.jobs == "":
        # What runs is what one wants to see, however much newer work waits behind it.
        running = await reads.list_jobs(conn, reads.JobFilter(states=("running",)), JOBS_SHOWN)
        found = list({job["id"]: job for job in [*running, *found]}.values())
    found.sort(key=lambda job: (job["state"] != "running", -job["id"]) if view.jobs == "" else (False, -job["id"]))
    return found[:JOBS_SHOWN]


def _tabs(view: View, counts: Mapping[str, int | None]) -> list[dict[str, Any]]:
    return [
        {"label": label, "count": counts[name], "current": name == view.jobs, "query": view.query(jobs=name)}
        for name, label in JOB_TABS.items()
    ]


async def _tiles(
    conn: asyncpg.Connection,
    now: datetime,
    counts: Sequence[Mapping[str, Any]],
    running: int,
    waiting: int,
    failed: int,
    rollups: Sequence[RollupStatus],
) -> list[Tile]:
    minutes = {row["minute"]: row for row in await statistics.per_minute(conn, SPARK)}
    start = now.replace(second=0, microsecond=0) - SPARK
    series = [minutes.get(start + timedelta(minutes=i), {}) for i in range(int(SPARK.total_seconds() // 60) + 1)]
    done = sum(minute.get("n") or 0 for minute in series)
    oldest = min((row["oldest"] for row in counts if row["oldest"] is not None), default=None)
    wait_s = max((now - oldest).total_seconds(), 0) if oldest is not None and oldest <= now else None
    loaded = await loaded_lately(conn)
    stale = max((rollup.staleness_seconds for rollup in rollups), default=None)
    dirty = sum(1 for rollup in rollups if rollup.dirty_ranges)
    return [
        Tile("Running", number(running), f"{number(done)} done in 30 min", spark=[float(m.get("n") or 0) for m in series]),
        Tile("Waiting", short_number(waiting), "nothing is due" if wait_s is None else f"oldest due {age(wait_s)} ago"),
        Tile(
            "Failed",
            number(failed),
            "within 24 hours",
            tone="bad" if failed else "",
            spark=[float(m.get("failed") or 0) for m in series] if failed else (),
        ),
        Tile(
            "Rows loaded",
            short_number(loaded["rows"]),
            f"{number(loaded['loads'])} loads in 24 h" + (f", {number(loaded['rejected'])} rejected" if loaded["rejected"] else ""),
        ),
        _staleness(stale, dirty, sum(rollup.state == "waiting" for rollup in rollups), len(rollups)),
    ]


def checks_shown(report: Report) -> dict[str, Any]:
    """What is wrong first, then some of what is well; `more` counts the rest."""
    order = {"critical": 0, "degraded": 1, "healthy": 2}
    ordered = sorted(report.checks, key=lambda check: order[check.status])
    ill = sum(check.status != "healthy" for check in ordered)
    shown = ordered[: max(CHECKS_SHOWN, ill)] if len(ordered) > CHECKS_SHOWN + 2 else ordered
    return {"items": shown, "more": len(ordered) - len(shown)}


def _health(report: Report) -> Tile:
    ill = [check.name for check in report.checks if check.status != "healthy"]
    note = ", ".join(ill) if ill else f"all {len(report.checks)} checks pass"
    return Tile("Health", report.status.capitalize(), note, tone={"degraded": "warn", "critical": "bad"}.get(report.status, "good"))


def _staleness(stale: float | None, dirty: int, waiting: int, count: int) -> Tile:
    if stale is None:
        return Tile("Rollup staleness", NONE, "no rollups declared")
    if waiting and not dirty:
        # For a table or a column, and it is refreshed by nobody meanwhile: not a number to be content with.
        return Tile("Rollup staleness", NONE, f"{waiting} of {count} waiting, see why below")
    if not dirty:
        return Tile("Rollup staleness", "0", f"{count} rollups, all current" if count != 1 else "1 rollup, current", unit="s")
    value, unit = age(stale).split(" ")
    return Tile("Rollup staleness", value, f"{dirty} of {count} catching up; views stay exact", unit=unit)


async def _chart(conn: asyncpg.Connection, now: datetime, rollups: Sequence[RollupStatus], view: View) -> Chart:
    choices = choices_of(rollups)
    known = [key for _, options in choices for key, _ in options]
    key = view.chart if view.chart in known else known[0]
    chart = await rollup_chart_of(conn, rollups, key) or await jobs_chart(conn, now)
    return replace(chart, choices=choices, key=key)


async def _workflow(conn: asyncpg.Connection, name: str) -> dict[str, Any]:
    latest = await reads.workflow_runs(conn, name, limit=1)
    return rows.workflow_row(name, latest[0] if latest else None)
