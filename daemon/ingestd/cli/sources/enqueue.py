"""Enqueueing one job, and waiting for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg

from ingestd.app.handlers import user_handlers
from ingestd.cli.shell import Shell
from ingestd.cli.sources import base
from ingestd.jobs.actions import enqueue_job
from ingestd.jobs.handle import Waiter
from ingestd.jobs.model import FINAL, NewJob
from ingestd.jobs.options import new_job
from ingestd.jobs.store.jobs import ended
from ingestd.jobs.store.queues import declare_missing_queues, kind_known, publish_missing_kinds
from ingestd.jobs.store.reads import show_job

FIRST_LOOK_S = 0.05
LONGEST_WAIT_S = 2.0
SLOWER = 1.5


class Near(base.Near):
    """In the database."""

    async def enqueue(self, kind: str, args: Mapping[str, Any], options: Mapping[str, Any], *, allow_unknown: bool) -> dict[str, Any]:
        """Enqueue it: `id`, and whether it was `existing` and is `changed`."""
        job: NewJob = new_job(kind, args, options, triggered_by="cli")
        # no node may have run yet, or with this configuration, but what it would make known may be at hand
        await declare_missing_queues(self.conn, self.settings.all_queues())
        if not allow_unknown and "\0" not in job.kind and not await kind_known(self.conn, job.kind):
            await publish_missing_kinds(self.conn, user_handlers(self.settings.daemon.handlers, self.shell.folders))
        done = await enqueue_job(self.conn, self.actor, job, allow_unknown=allow_unknown)
        return {"id": str(done.id), "existing": done.existing, "changed": done.changed}

    async def ended(self, job_id: int) -> dict[str, Any]:
        """The job, once it is final."""

        async def look(ids: Sequence[int]) -> list[asyncpg.Record]:
            return await ended(await self.opened.live(), ids)

        waiter = Waiter(look)
        try:
            await waiter.wait(job_id)
        finally:
            await waiter.close()
        found = await show_job(await self.opened.live(), job_id)
        assert found is not None
        return found

    async def job(self, job_id: int) -> dict[str, Any]:
        """The job as it is now."""
        return await show_job(await self.opened.live(), job_id) or {"id": job_id, "state": "unknown"}


class Far(base.Far):
    """At a daemon."""

    async def enqueue(self, kind: str, args: Mapping[str, Any], options: Mapping[str, Any], *, allow_unknown: bool) -> dict[str, Any]:
        """Enqueue it: `id`, and whether it was `existing` and is `changed`."""
        body = {"kind": kind, "args": args, **options, "allow_unknown": allow_unknown or None}
        made = await self.api.post("/api/v1/jobs", body)
        return {name: made[name] for name in ("id", "existing", "changed")}

    async def ended(self, job_id: int) -> dict[str, Any]:
        """The job, once it is final."""
        wait_s = FIRST_LOOK_S
        while (found := await self.job(job_id))["state"] not in FINAL:
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * SLOWER, LONGEST_WAIT_S)
        return found

    async def job(self, job_id: int) -> dict[str, Any]:
        """The job as it is now."""
        return base.row(await self.api.get("/api/v1/jobs/{id}", id=job_id))


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
