"""Numbers of the queue."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

from ingestd.admin.numbers import numbers
from ingestd.cli.shell import Shell
from ingestd.cli.sources import base
from ingestd.settings import format_duration


class Near(base.Near):
    """In the database."""

    async def numbers(self, window: timedelta) -> dict[str, Any]:
        """Open jobs, and what finished within a window."""
        return await numbers(self.conn, window)


class Far(base.Far):
    """At a daemon."""

    async def numbers(self, window: timedelta) -> dict[str, Any]:
        """Open jobs, and what finished within a window."""
        found: dict[str, Any] = await self.api.get("/api/v1/stats", {"window": format_duration(window)})
        return found | {"per_minute": [base.row(minute) for minute in found["per_minute"]]}


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
