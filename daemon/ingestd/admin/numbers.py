"""Numbers of the queue: what is open, and what finished within a window."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg

from ingestd.jobs.store import reads, statistics
from ingestd.settings import format_duration, parse_duration

SHORTEST, LONGEST = timedelta(minutes=1), timedelta(days=31)
_MINUTES_SHOWN = timedelta(hours=6)


def read_window(text: str) -> timedelta:
    """How far back somebody wants to look.

    Raises:
        ValueError: it is no duration, or out of range.
    """
    window = parse_duration(text)
    if not SHORTEST <= window <= LONGEST:
        raise ValueError("must be from 1m to 31d")
    return window


async def numbers(conn: asyncpg.Connection, window: timedelta) -> dict[str, Any]:
    """Open jobs by queue and state, and what finished within a window by kind and outcome, and minute by minute."""
    open_jobs: dict[str, dict[str, int]] = {}
    for row in await reads.counts(conn):
        open_jobs.setdefault(row["queue"], {})[row["state"]] = row["n"]
    finished = [
        {"kind": row["kind"], "outcome": row["outcome"], "count": row["n"], "mean_ms": round(row["ms"] / row["n"], 1)}
        for row in await statistics.totals(conn, window)
        if row["n"]
    ]
    minutes = [dict(row) for row in await statistics.per_minute(conn, min(window, _MINUTES_SHOWN))]
    return {"window": format_duration(window), "open": open_jobs, "finished": finished, "per_minute": minutes}
