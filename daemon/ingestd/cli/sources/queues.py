"""Queues."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from ingestd.cli.shell import Shell
from ingestd.cli.sources import base
from ingestd.jobs import actions
from ingestd.jobs.store.queues import overview


class Near(base.Near):
    """In the database."""

    async def overview(self) -> list[dict[str, Any]]:
        """All queues."""
        return await overview(self.conn)

    async def pause(self, name: str) -> None:
        """Start nothing more from a queue."""
        await actions.pause_queue(self.conn, self.actor, name)

    async def resume(self, name: str) -> None:
        """Start jobs of a queue again."""
        await actions.resume_queue(self.conn, self.actor, name)


class Far(base.Far):
    """At a daemon."""

    async def overview(self) -> list[dict[str, Any]]:
        """All queues."""
        return base.items(await self.api.get("/api/v1/queues"))

    async def pause(self, name: str) -> None:
        """Start nothing more from a queue."""
        await self.api.post("/api/v1/queues/{name}/pause", name=name)

    async def resume(self, name: str) -> None:
        """Start jobs of a queue again."""
        await self.api.post("/api/v1/queues/{name}/resume", name=name)


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
