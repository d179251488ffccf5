"""Nodes."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from ingestd.cli.shell import Shell
from ingestd.cli.sources import base
from ingestd.work.actions import drain_node
from ingestd.work.store import nodes


class Near(base.Near):
    """In the database."""

    async def nodes(self) -> list[dict[str, Any]]:
        """Nodes that run, and those that ended within a day."""
        return [dict(row) for row in await nodes(self.conn)]

    async def drain(self, which: str) -> dict[str, Any]:
        """Ask a node to finish and end; whether it had been asked before."""
        return await drain_node(self.conn, self.actor, which)


class Far(base.Far):
    """At a daemon."""

    async def nodes(self) -> list[dict[str, Any]]:
        """Nodes that run, and those that ended within a day."""
        return base.items(await self.api.get("/api/v1/nodes"))

    async def drain(self, which: str) -> dict[str, Any]:
        """Ask a node to finish and end; whether it had been asked before."""
        return base.row(await self.api.post("/api/v1/nodes/{name}/drain", name=which))


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
