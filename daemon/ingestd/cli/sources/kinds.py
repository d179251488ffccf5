"""Kinds of job."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from ingestd.cli.shell import Shell
from ingestd.cli.sources import base
from ingestd.jobs.store import queues


class Near(base.Near):
    """In the database."""

    async def kinds(self) -> list[dict[str, Any]]:
        """Kinds that nodes have published."""
        return [dict(row) for row in await queues.kinds(self.conn)]


class Far(base.Far):
    """At a daemon."""

    async def kinds(self) -> list[dict[str, Any]]:
        """Kinds that nodes have published; `here` tells of the daemon that answers."""
        return base.items(await self.api.get("/api/v1/kinds"))


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
