"""Schedules and their slots."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ingestd.cli.session import in_service, nothing_in_service
from ingestd.cli.shell import Shell
from ingestd.cli.sources import base
from ingestd.schedule import actions, preview
from ingestd.schedule.rules import Upcoming
from ingestd.schedule.store import reads
from ingestd.settings import format_duration

if TYPE_CHECKING:
    from ingestd.schedule.definitions import Definitions


class Near(base.Near):
    """In the database."""

    @property
    def nothing(self) -> str:
        """What to say where there are none."""
        return nothing_in_service("schedule", self.settings.schedules)

    async def schedules(self) -> list[dict[str, Any]]:
        """All of them."""
        return await reads.list_schedules(self.conn)

    async def schedule(self, name: str) -> dict[str, Any]:
        """One of them."""
        with in_service("schedule", name, self.settings.schedules):
            return await reads.find_schedule(self.conn, name)

    async def next_slots(self, name: str, count: int, start: datetime | None = None) -> list[Upcoming]:
        """Its slots to come."""
        return await preview.next_slots(self.conn, name, count, start)

    async def slots(
        self, name: str, states: tuple[str, ...] | None, before: datetime | None, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """So many of its slots, the newest first, and whether there are more."""
        with in_service("schedule", name, self.settings.schedules):
            await reads.require_ever_declared(self.conn, name)
        found = await reads.list_slots(self.conn, name, states, before, limit + 1)
        return found[:limit], len(found) > limit

    async def downtimes(self, before: int | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """So many times in which nothing fired slots, the newest first, and whether there are more."""
        found = await reads.list_downtimes(self.conn, before, limit + 1)
        return found[:limit], len(found) > limit

    async def trigger(self, name: str, reason: str | None) -> str:
        """Start its target now; the job's id."""
        with in_service("schedule", name, self.settings.schedules):
            return str(await actions.trigger(self.conn, self.actor, name, reason))

    async def pause(self, name: str, reason: str | None, until: datetime | None, lasting: timedelta | None) -> tuple[dict[str, Any], bool]:
        """Skip its slots: how it stands then, and whether that is new."""
        with in_service("schedule", name, self.settings.schedules):
            changed = await actions.pause(self.conn, self.actor, name, reason, until=until, lasting=lasting)
            return await reads.find_schedule(self.conn, name), changed

    async def resume(self, name: str, from_now: bool) -> bool:
        """Fire its slots again; whether that is new."""
        with in_service("schedule", name, self.settings.schedules):
            return await actions.resume(self.conn, self.actor, name, from_now=from_now)

    async def skip_next(self, name: str, reason: str | None) -> datetime:
        """Skip its next slot; when that is due."""
        with in_service("schedule", name, self.settings.schedules):
            return await actions.skip_next(self.conn, self.actor, name, reason)

    async def unskip(self, name: str) -> bool:
        """Let it fire after all; whether that is new."""
        with in_service("schedule", name, self.settings.schedules):
            return await actions.unskip(self.conn, self.actor, name)

    async def create(self, name: str, keys: dict[str, Any]) -> None:
        """Put a new one in service."""
        await self._definitions().create(self.conn, self.actor, name, keys)

    async def edit(self, name: str, keys: dict[str, Any]) -> bool:
        """Change keys; whether any was different."""
        with in_service("schedule", name, self.settings.schedules):
            return await self._definitions().edit(self.conn, self.actor, name, keys)

    async def delete(self, name: str, reason: str | None) -> None:
        """Take it out of service."""
        with in_service("schedule", name, self.settings.schedules):
            await self._definitions().delete(self.conn, self.actor, name, reason)

    def _definitions(self) -> Definitions:
        from ingestd.app.definitions import definitions
        from ingestd.app.handlers import user_handlers

        # no node may have run yet, but the code may be at hand
        return definitions(lambda: self.settings, specs=lambda: user_handlers(self.settings.daemon.handlers, self.shell.folders))


class Far(base.Far):
    """At a daemon."""

    nothing = nothing_in_service("schedule", {})

    async def schedules(self) -> list[dict[str, Any]]:
        """All of them."""
        found: list[dict[str, Any]] = base.rows((await self.api.pages("/api/v1/schedules", base.ALL))[0])
        # the API leaves it out of lists, and so does the command
        return [row | {"spec": None} for row in found]

    async def schedule(self, name: str) -> dict[str, Any]:
        """One of them."""
        return base.row(await self.api.get("/api/v1/schedules/{name}", name=name))

    async def next_slots(self, name: str, count: int, start: datetime | None = None) -> list[Upcoming]:
        """Its slots to come."""
        found = await self.api.get("/api/v1/schedules/{name}/next", {"count": count, "from": start}, name=name)
        return [Upcoming(datetime.fromisoformat(slot["at"]), slot["note"]) for slot in found["items"]]

    async def slots(
        self, name: str, states: tuple[str, ...] | None, before: datetime | None, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """So many of its slots, the newest first, and whether there are more."""
        query = {"state": ",".join(states or ()) or None, "before": before}
        found, more = await self.api.pages("/api/v1/schedules/{name}/slots", limit, query, name=name)
        return base.rows(found), more

    async def downtimes(self, before: int | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """So many times in which nothing fired slots, the newest first, and whether there are more."""
        found, more = await self.api.pages("/api/v1/downtimes", limit, {"before": before})
        return base.rows(found), more

    async def trigger(self, name: str, reason: str | None) -> str:
        """Start its target now; the job's id."""
        return str((await self.api.post("/api/v1/schedules/{name}/trigger", {"reason": reason}, name=name))["job_id"])

    async def pause(self, name: str, reason: str | None, until: datetime | None, lasting: timedelta | None) -> tuple[dict[str, Any], bool]:
        """Skip its slots: how it stands then, and whether that is new."""
        body = {"reason": reason, "until": until, "for": lasting and format_duration(lasting)}
        found = await self.api.post("/api/v1/schedules/{name}/pause", body, name=name)
        return base.row(found), bool(found["changed"])

    async def resume(self, name: str, from_now: bool) -> bool:
        """Fire its slots again; whether that is new."""
        return bool((await self.api.post("/api/v1/schedules/{name}/resume", {"from_now": from_now}, name=name))["changed"])

    async def skip_next(self, name: str, reason: str | None) -> datetime:
        """Skip its next slot; when that is due."""
        found = base.row(await self.api.post("/api/v1/schedules/{name}/skip-next", {"reason": reason}, name=name))
        due_at: datetime = found["skip_at"]
        return due_at

    async def unskip(self, name: str) -> bool:
        """Let it fire after all; whether that is new."""
        return bool((await self.api.delete("/api/v1/schedules/{name}/skip-next", name=name))["changed"])

    async def create(self, name: str, keys: dict[str, Any]) -> None:
        """Put a new one in service."""
        await self.api.post("/api/v1/schedules", {**keys, "name": name})

    async def edit(self, name: str, keys: dict[str, Any]) -> bool:
        """Change keys; whether any was different."""
        return bool((await self.api.patch("/api/v1/schedules/{name}", keys, name=name))["changed"])

    async def delete(self, name: str, reason: str | None) -> None:
        """Take it out of service."""
        await self.api.delete("/api/v1/schedules/{name}", {"reason": reason}, name=name)


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
