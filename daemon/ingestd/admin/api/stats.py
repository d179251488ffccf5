"""`/api/v1/stats`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from aiohttp import web

from ingestd.admin.answers.plans import Stats, Summary
from ingestd.admin.numbers import numbers, read_window
from ingestd.admin.routes import Call, Route, answer
from ingestd.admin.summary import summarize
from ingestd.errors import UsageError
from ingestd.settings import format_duration


async def stats(call: Call) -> web.Response:
    """Open jobs by queue and state, and what finished within a window."""
    window = _window(call)
    async with call.reading() as conn:
        return answer(await numbers(conn, window))


async def summary(call: Call) -> web.Response:
    """Everything in a few numbers."""
    window = _window(call)
    async with call.reading() as conn:
        return answer({"window": format_duration(window), "at": datetime.now(UTC)} | await summarize(conn, call.state, window))


def _window(call: Call) -> timedelta:
    try:
        return read_window(call.query.get("window", "24h"))
    except ValueError as error:
        raise UsageError(f'"window": {error}') from None


def routes() -> list[Route]:
    """These resources' routes."""
    return [
        Route("GET", "/api/v1/stats", "read", stats, "Open jobs, and what finished within a window", ("window",), answers={200: Stats}),
        Route("GET", "/api/v1/stats/summary", "read", summary, "Everything in a few numbers", ("window",), answers={200: Summary}),
    ]
