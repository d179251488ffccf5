"""Imports and loads."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from ingestd.cli.shell import Shell
from ingestd.cli.sources import base
from ingestd.errors import NotFound
from ingestd.imports import actions
from ingestd.imports.store import reads


class Near(base.Near):
    """In the database, and as the configuration declares them."""

    async def imports(self) -> list[dict[str, Any]]:
        """The declared imports and their last load."""
        declared = self.settings.imports
        return [row | declared[row["name"]].shown() for row in await reads.list_imports(self.conn, list(declared))]

    async def trigger(self, name: str) -> str:
        """Have its source scanned; the id of the job that does it."""
        if name not in self.settings.imports:
            raise actions.no_such_import(name, self.settings.imports)
        return str(await actions.trigger_import(self.conn, self.actor, name))

    async def loads(self, name: str | None, status: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest loads."""
        found = await reads.list_loads(self.conn, import_name=name, status=status, limit=limit)
        # one that is declared no more still has its loads
        if name and name not in self.settings.imports and not await reads.list_loads(self.conn, import_name=name, limit=1):
            raise actions.no_such_import(name, self.settings.imports)
        return found

    async def load(self, load_id: int) -> dict[str, Any]:
        """One load."""
        found = await reads.load_detail(self.conn, load_id)
        if found is None:
            raise NotFound(f"there is no load {load_id}")
        return found

    async def rejects(self, load_id: int, limit: int) -> list[dict[str, Any]]:
        """Its records that did not load."""
        await self.load(load_id)
        return await reads.list_rejects(self.conn, load_id, limit)

    async def retry(self, load_id: int) -> str:
        """Load it again; the id of the job that does it."""
        return str(await actions.retry_load(self.conn, self.actor, load_id))

    async def skip(self, load_id: int) -> None:
        """Give it up."""
        await actions.skip_load(self.conn, self.actor, load_id)


class Far(base.Far):
    """At a daemon."""

    async def imports(self) -> list[dict[str, Any]]:
        """The declared imports and their last load."""
        return base.items(await self.api.get("/api/v1/imports"))

    async def trigger(self, name: str) -> str:
        """Have its source scanned; the id of the job that does it."""
        return str((await self.api.post("/api/v1/imports/{name}/trigger", name=name))["job_id"])

    async def loads(self, name: str | None, status: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest loads."""
        found, _ = await self.api.pages("/api/v1/loads", limit, {"import": name, "status": status})
        if name and not found and not (await self.api.pages("/api/v1/loads", 1, {"import": name}))[0]:
            await self.api.get("/api/v1/imports/{name}", name=name)
        rows: list[dict[str, Any]] = base.rows(found)
        return rows

    async def load(self, load_id: int) -> dict[str, Any]:
        """One load."""
        return base.row(await self.api.get("/api/v1/loads/{id}", id=load_id))

    async def rejects(self, load_id: int, limit: int) -> list[dict[str, Any]]:
        """Its records that did not load."""
        found, _ = await self.api.pages("/api/v1/loads/{id}/rejects", limit, id=load_id)
        return found

    async def retry(self, load_id: int) -> str:
        """Load it again; the id of the job that does it."""
        return str((await self.api.post("/api/v1/loads/{id}/retry", id=load_id))["job_id"])

    async def skip(self, load_id: int) -> None:
        """Give it up."""
        await self.api.post("/api/v1/loads/{id}/skip", id=load_id)


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
