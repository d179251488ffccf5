"""History, statistics, last and status of what runs again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from ingestd.admin import records
from ingestd.admin.records import Kept, Subject
from ingestd.cli.session import in_service
from ingestd.cli.shell import Shell
from ingestd.cli.sources import base
from ingestd.jobs.records import RunFilter


class Near(base.Near):
    """In the database."""

    async def history(
        self, what: Kept, name: str, states: tuple[str, ...], triggered_by: str | None, before: str, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """So many of its runs, the newest first, and whether there are more."""

        async def ask(of: Subject) -> list[dict[str, Any]]:
            newest = records.position_of(of, before) if before else None
            return [run.shown() for run in await records.history(self.conn, of, RunFilter(states, triggered_by, newest), limit + 1)]

        found: list[dict[str, Any]] = await self._ask(what, name, ask)
        return found[:limit], len(found) > limit

    async def statistics(self, what: Kept, name: str, days: int, timezone: str | None) -> dict[str, Any]:
        """What the last days held."""
        return dict(await self._ask(what, name, lambda of: records.totals(self.conn, of, days, timezone)))

    async def last(self, what: Kept, name: str) -> dict[str, Any]:
        """The newest run, the newest success and the newest failure."""
        return dict(await self._ask(what, name, lambda of: records.last(self.conn, of)))

    async def status(self, what: Kept, name: str) -> dict[str, Any]:
        """What it is now."""
        threshold = self.settings.daemon.failures_in_a_row
        return dict(await self._ask(what, name, lambda of: records.status(self.conn, of, threshold)))

    async def _ask(self, what: Kept, name: str, ask: Callable[[Subject], Awaitable[Any]]) -> Any:
        declared: Mapping[str, Collection[str]] = {"import": self.settings.imports, "workflow": self.settings.workflows}
        schedules = self.settings.schedules if what == "schedule" else {}
        with in_service("schedule", name, schedules):
            # several statements that see the same
            async with self.conn.transaction(isolation="repeatable_read", readonly=True):
                return await ask(Subject(what, name, declared.get(what, ())))


class Far(base.Far):
    """At a daemon."""

    async def history(
        self, what: Kept, name: str, states: tuple[str, ...], triggered_by: str | None, before: str, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """So many of its runs, the newest first, and whether there are more."""
        query = {"state": ",".join(states) or None, "triggered_by": triggered_by, "before": before or None}
        found, more = await self.api.pages("/api/v1/{type}s/{name}/history", limit, query, type=what, name=name)
        return base.rows(found), more

    async def statistics(self, what: Kept, name: str, days: int, timezone: str | None) -> dict[str, Any]:
        """What the last days held."""
        query = {"days": days, "timezone": timezone}
        return base.row(await self.api.get("/api/v1/{type}s/{name}/statistics", query, type=what, name=name))

    async def last(self, what: Kept, name: str) -> dict[str, Any]:
        """The newest run, the newest success and the newest failure."""
        return base.row(await self.api.get("/api/v1/{type}s/{name}/last", type=what, name=name))

    async def status(self, what: Kept, name: str) -> dict[str, Any]:
        """What it is now."""
        return base.row(await self.api.get("/api/v1/{type}s/{name}/status", type=what, name=name))


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
