"""Jobs: looking at them, and what is done to one of them or to many."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any

from ingestd.cli.shell import Shell
from ingestd.cli.sources import base
from ingestd.errors import NotFound
from ingestd.jobs import actions
from ingestd.jobs.bulk import AT_ONCE, Bulk, look
from ingestd.jobs.filters import JobFilter
from ingestd.jobs.store import reads
from ingestd.jobs.store.queues import queues
from ingestd.settings import did_you_mean, format_duration

# A field of the filter where the API has another word for it.
_WORDS = {
    "states": "state",
    "workflow_run": "run",
    "parent_id": "parent",
    "since": "from",
    "until": "to",
    "finished_since": "finished_from",
    "finished_until": "finished_to",
    "ids": "id",
    "before_id": "before",
}


class Near(base.Near):
    """In the database."""

    async def require_queue(self, name: str | None) -> None:
        """Refuse a queue that is not there.

        Raises:
            NotFound: it is not.
        """
        _require_queue(name, [row["name"] for row in await queues(self.conn)] if name else [])

    async def jobs(self, which: JobFilter, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """So many jobs, the newest first, and whether there are more."""
        found = await reads.list_jobs(self.conn, which, limit + 1)
        return found[:limit], len(found) > limit

    async def dead(self, which: JobFilter, limit: int) -> list[dict[str, Any]]:
        """Jobs that failed for good, by what went wrong."""
        return await reads.dead_groups(self.conn, which, limit)

    async def job(self, job_id: int) -> dict[str, Any]:
        """One job with all that is known about it.

        Raises:
            NotFound: there is no such job.
        """
        found = await reads.show_whole(self.conn, job_id)
        if found is None:
            raise NotFound(f"there is no job {job_id}")
        return found

    async def retry(self, job_id: int, run_at: datetime | None) -> None:
        """Bring it back."""
        await actions.retry_job(self.conn, self.actor, job_id, run_at)

    async def again(self, job_id: int, run_at: datetime | None) -> str:
        """Run it once more; the new job's id."""
        return str(await actions.run_again(self.conn, self.actor, job_id, run_at))

    async def snooze(self, job_id: int, until: datetime) -> None:
        """Let it run later, or earlier."""
        await actions.snooze_job(self.conn, self.actor, job_id, until)

    async def cancel(self, job_id: int, *, force: bool) -> str:
        """`cancelled`, or `cancelling` where it runs."""
        return await actions.cancel_job(self.conn, self.actor, job_id, force=force)

    async def delete(self, job_id: int) -> str:
        """Delete it; what it was."""
        return await actions.delete_job(self.conn, self.actor, job_id)

    async def edit(self, job_id: int, changes: Mapping[str, Any]) -> None:
        """Change it."""
        await actions.edit_job(self.conn, self.actor, job_id, changes)

    async def look(self, bulk: Bulk) -> dict[str, Any]:
        """What a bulk would change."""
        found = await look(self.conn, bulk)
        counts = {"action": bulk.action, "jobs": found.jobs, "states": found.states, "kinds": found.kinds}
        return counts | {"at_once": found.jobs <= AT_ONCE, "sample": found.sample}

    async def start(self, bulk: Bulk, expected: int | None) -> dict[str, Any]:
        """Do one thing to all that match: counts, or the `id` of the job that does it."""
        asked = await actions.start_bulk(self.conn, self.actor, bulk, expected)
        done = {"id": str(asked.job_id)} if asked.counts is None else asked.counts
        return {"action": bulk.action, "jobs": asked.jobs, **done}


class Far(base.Far):
    """At a daemon."""

    async def require_queue(self, name: str | None) -> None:
        """Refuse a queue that is not there.

        Raises:
            NotFound: it is not.
        """
        _require_queue(name, [one["name"] for one in base.items(await self.api.get("/api/v1/queues"))] if name else [])

    async def jobs(self, which: JobFilter, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """So many jobs, the newest first, and whether there are more."""
        found, more = await self.api.pages("/api/v1/jobs", limit, words_of(which))
        return base.rows(found), more

    async def dead(self, which: JobFilter, limit: int) -> list[dict[str, Any]]:
        """Jobs that failed for good, by what went wrong."""
        return base.items(await self.api.get("/api/v1/jobs/dead", words_of(which) | {"limit": limit}))

    async def job(self, job_id: int) -> dict[str, Any]:
        """One job with all that is known about it."""
        return base.row(await self.api.get("/api/v1/jobs/{id}", id=job_id))

    async def retry(self, job_id: int, run_at: datetime | None) -> None:
        """Bring it back."""
        await self.api.post("/api/v1/jobs/{id}/retry", {"run_at": run_at}, id=job_id)

    async def again(self, job_id: int, run_at: datetime | None) -> str:
        """Run it once more; the new job's id."""
        return str((await self.api.post("/api/v1/jobs/{id}/again", {"run_at": run_at}, id=job_id))["id"])

    async def snooze(self, job_id: int, until: datetime) -> None:
        """Let it run later, or earlier."""
        await self.api.post("/api/v1/jobs/{id}/snooze", {"run_at": until}, id=job_id)

    async def cancel(self, job_id: int, *, force: bool) -> str:
        """`cancelled`, or `cancelling` where it runs."""
        found = await self.api.post("/api/v1/jobs/{id}/cancel", {"force": force}, id=job_id)
        return "cancelled" if found["state"] == "cancelled" else "cancelling"

    async def delete(self, job_id: int) -> str:
        """Delete it; what it was."""
        return str((await self.api.delete("/api/v1/jobs/{id}", id=job_id))["was"])

    async def edit(self, job_id: int, changes: Mapping[str, Any]) -> None:
        """Change it."""
        await self.api.patch("/api/v1/jobs/{id}", _written(changes), id=job_id)

    async def look(self, bulk: Bulk) -> dict[str, Any]:
        """What a bulk would change."""
        return base.row(await self.api.post("/api/v1/bulk", _request(bulk) | {"preview": True}))

    async def start(self, bulk: Bulk, expected: int | None) -> dict[str, Any]:
        """Do one thing to all that match: counts, or the `id` of the job that does it."""
        return base.row(await self.api.post("/api/v1/bulk", _request(bulk) | {"expected": expected}))


def words_of(which: JobFilter) -> dict[str, Any]:
    """A filter in the words of the API; `read_filter` of the admin server reads it back."""
    return {
        _WORDS.get(field, field): ",".join(map(str, value)) if isinstance(value, list) else value
        for field, value in which.as_json().items()
    }


def _request(bulk: Bulk) -> dict[str, Any]:
    given = {
        "action": bulk.action,
        "filter": words_of(bulk.which),
        "run_at": bulk.run_at,
        "force": bulk.force or None,
    }
    return given | ({"changes": _written(bulk.changes)} if bulk.changes else {})


def _written(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Timeouts, which the queue has in seconds, as people write them."""
    timeouts = {name: changes[name] for name in ("timeout", "hard_timeout") if changes.get(name) is not None}
    return {**changes, **{name: format_duration(timedelta(seconds=value)) for name, value in timeouts.items()}}


def _require_queue(name: str | None, known: list[str]) -> None:
    if name and name not in known:
        raise NotFound(f'there is no queue "{name}"{did_you_mean(name, known)}')


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
