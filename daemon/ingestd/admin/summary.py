"""Everything in a few numbers, from the rooms' own reads, in one snapshot."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import asyncpg

from ingestd.admin.state import AdminState
from ingestd.admin.store import loaded_lately
from ingestd.imports.store.reads import list_imports
from ingestd.jobs.store import queues, reads, statistics
from ingestd.jobs.store.reads import workflow_runs
from ingestd.rollups.reads import list_rollups
from ingestd.schedule.store import glance
from ingestd.work.store import nodes

_GOOD, _BAD = "succeeded", "failed"


async def summarize(conn: asyncpg.Connection, state: AdminState, window: timedelta) -> dict[str, Any]:
    """Jobs, queues, nodes, schedules, imports, rollups and workflows, counted.

    Args:
        window: how far back what has ended is counted; what loads brought in is always of 24 hours.
    """
    found = await queues.overview(conn)
    return {
        "jobs": await _jobs(conn, window),
        "queues": {"total": len(found), "paused": [queue["name"] for queue in found if queue["paused"]]},
        "nodes": dict(Counter(node["state"] for node in await nodes(conn))),
        "schedules": await glance.counts(conn),
        "imports": await _imports(conn, state),
        "rollups": await _rollups(conn),
        "workflows": await _workflows(conn, state),
    }


async def _jobs(conn: asyncpg.Connection, window: timedelta) -> dict[str, Any]:
    waiting: Counter[str] = Counter()
    for row in await reads.counts(conn):
        waiting[row["state"]] += row["n"]
    finished: Counter[str] = Counter()
    for row in await statistics.totals(conn, window):
        finished[row["outcome"]] += row["n"]
    tried = finished[_GOOD] + finished[_BAD]
    oldest = max((await reads.oldest_ages(conn)).values(), default=0.0)
    return {
        "open": dict(waiting),
        "oldest_due_seconds": round(oldest, 3),
        "finished": {outcome: n for outcome, n in finished.items() if n},
        "success_rate": finished[_GOOD] / tried if tried else None,
    }


async def _imports(conn: asyncpg.Connection, state: AdminState) -> dict[str, Any]:
    standing = await list_imports(conn, sorted(state.imports()))
    loaded = await loaded_lately(conn)
    return {
        "total": len(standing),
        "pending": sum(row["pending"] for row in standing),
        "blocked": [row["name"] for row in standing if row["blocked_by"] is not None],
        "loads_24h": loaded["loads"],
        "rows_24h": loaded["rows"],
        "rejected_24h": loaded["rejected"],
    }


async def _rollups(conn: asyncpg.Connection) -> dict[str, Any]:
    rollups = await list_rollups(conn)
    stalest = max((rollup.staleness_seconds for rollup in rollups), default=0.0)
    dirty = sum(1 for rollup in rollups if rollup.dirty_ranges)
    return {"total": len(rollups), "dirty": dirty, "staleness_seconds": round(stalest, 3)}


async def _workflows(conn: asyncpg.Connection, state: AdminState) -> dict[str, Any]:
    latest = [await workflow_runs(conn, name, limit=1) for name in sorted(state.workflows())]
    return {"total": len(latest), "last_runs": dict(Counter(runs[0]["state"] for runs in latest if runs))}
