"""`/api/v1/stats`."""

from __future__ import annotations

from datetime import timedelta

from aiohttp import web

from ingestd.admin.routes import Call, Route, answer
from ingestd.errors import UsageError
from ingestd.jobs.store import reads, statistics
from ingestd.settings import format_duration, parse_duration

LONGEST = timedelta(days=31)


async def stats(call: Call) -> web.Response:
    """Open jobs by queue and state, and what finished within a window."""
    window = _window(call)
    async with call.reading() as conn:
        open_jobs: dict[str, dict[str, int]] = {}
        for row in await reads.counts(conn):
            open_jobs.setdefault(row["queue"], {})[row["state"]] = row["n"]
        finished = [
            {"kind": row["kind"], "outcome": row["outcome"], "count": row["n"], "mean_ms": round(row["ms"] / row["n"], 1)}
            for row in await statistics.totals(conn, window)
            if row["n"]
        ]
        minutes = [dict(row) for row in await statistics.per_minute(conn, min(window, timedelta(hours=6)))]
    return answer({"window": format_duration(window), "open": open_jobs, "finished": finished, "per_minute": minutes})


def _window(call: Call) -> timedelta:
    try:
        window = parse_duration(call.query.get("window", "24h"))
    except ValueError as error:
        raise UsageError(f'"window": {error}') from None
    if not timedelta(minutes=1) <= window <= LONGEST:
        raise UsageError('"window" must be from 1m to 31d')
    return window


def routes() -> list[Route]:
    """These resources' routes."""
    return [
        Route("GET", "/api/v1/stats", "read", stats, "Open jobs, and what finished within a window", ("window",)),
    ]
