"""What the worker floor knows about the nodes."""

from __future__ import annotations

import asyncpg

from ingestd.facts import Check, Cleared, Gauge, Keep, RoomFacts
from ingestd.work import store

SILENT_S = 20.0
LAG_MS = 1000.0


async def gauges(conn: asyncpg.Connection) -> list[Gauge]:
    """Live nodes and what they hold."""
    live = [row for row in await store.nodes(conn) if row["state"] in ("starting", "running", "draining")]
    found = [Gauge("nodes", float(len(live)), "Nodes that are running.")]
    for row in live:
        found.append(Gauge("node_jobs_running", float(row["running"]), "Jobs a node holds.", {"node": row["name"]}))
        found.append(Gauge("loop_lag_seconds", (row["loop_lag_ms"] or 0) / 1000, "Main loop lag.", {"node": row["name"]}))
    return found


async def checks(conn: asyncpg.Connection) -> list[Check]:
    """Whether every node that should live is heard of."""
    live = [row for row in await store.nodes(conn) if row["state"] in ("starting", "running", "draining")]
    silent = [row["name"] for row in live if row["silent_s"] > SILENT_S]
    blocked = [f"{row['name']} {row['loop_lag_ms'] / 1000:.1f} s" for row in live if (row["loop_lag_ms"] or 0) > LAG_MS]
    return [
        Check(
            "loop_lag",
            "degraded" if blocked else "healthy",
            ", ".join(blocked) or f"at most {max([row['loop_lag_ms'] or 0 for row in live], default=0):.0f} ms",
            f"{LAG_MS:.0f} ms",
            hint='a handler blocks the event loop: the log has its stack; give the kind executor = "thread" or "process"'
            if blocked
            else "",
        ),
        Check(
            "nodes",
            "degraded" if silent else "healthy",
            f"{len(live)} running" + (f", silent: {', '.join(silent)}" if silent else ""),
            f"heard of within {SILENT_S:.0f} s",
            hint="look at that machine; its jobs are rescued when its session is gone" if silent else "",
        ),
    ]


async def clear(conn: asyncpg.Connection, keep: Keep, dry_run: bool) -> list[Cleared]:
    """Forget nodes that ended a week ago, and what they were doing."""
    return [await store.forget_nodes(conn, keep.now, dry_run)]


def facts() -> RoomFacts:
    """The nodes' gauges and checks, and when they are forgotten."""
    return RoomFacts(gauges=gauges, checks=checks, clear=clear)
