"""Rollups."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any

from ingestd.cli.session import in_service, nothing_in_service
from ingestd.cli.shell import Shell
from ingestd.cli.sources import base
from ingestd.rollups import actions, reads
from ingestd.settings import format_duration


class Near(base.Near):
    """In the database."""

    @property
    def nothing(self) -> str:
        """What to say where there are none."""
        return nothing_in_service("rollup", self.settings.rollups)

    async def rollups(self) -> list[dict[str, Any]]:
        """All rollups."""
        return [_row(one) for one in await reads.list_rollups(self.conn)]

    async def status(self, name: str) -> dict[str, Any]:
        """One rollup."""
        with in_service("rollup", name, self.settings.rollups):
            return _row(await reads.rollup_status(self.conn, name))

    async def refresh(self, name: str) -> str:
        """Refresh what is dirty; the id of the job that does it."""
        await self.status(name)
        return str(await actions.refresh_now(self.conn, self.actor, name))


class Far(base.Far):
    """At a daemon."""

    nothing = nothing_in_service("rollup", {})

    async def rollups(self) -> list[dict[str, Any]]:
        """All rollups."""
        return base.items(await self.api.get("/api/v1/rollups"))

    async def status(self, name: str) -> dict[str, Any]:
        """One rollup."""
        return base.row(await self.api.get("/api/v1/rollups/{name}", name=name))

    async def refresh(self, name: str) -> str:
        """Refresh what is dirty; the id of the job that does it."""
        return str((await self.api.post("/api/v1/rollups/{name}/refresh", name=name))["job_id"])


def _row(one: reads.RollupStatus) -> dict[str, Any]:
    return asdict(one) | {"max_staleness": format_duration(one.max_staleness)}


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
