"""What people do to imports and loads: each an effect and its audit row in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from ingestd.access.roles import Actor
from ingestd.access.store import record_audit
from ingestd.errors import Conflict, NotFound
from ingestd.files.identity import shown
from ingestd.imports.arrivals import IMPORT, LOAD, QUEUE, ByHand, Cause, Intake, receive_by_hand, table_key
from ingestd.imports.settings import ImportSettings
from ingestd.imports.store import arrivals as store
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.filters import OPEN_STATES
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.store import history
from ingestd.settings import did_you_mean


async def import_file(
    intake: Intake,
    actor: Actor,
    name: str,
    imports: Mapping[str, ImportSettings],
    path: Path,
    *,
    notes: str | None = None,
    tags: Sequence[str] = (),
    priority: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    force: bool = False,
) -> int:
    """Take in one file by hand and enqueue its load.

    Args:
        intake: of the node that is to load it: its store receives the bytes.
        name: an import of `imports`.
        priority: -100..100; None: the import's.
        force: load it even if the same content has been loaded.

    Returns:
        The load's id; its job is in the row.

    Raises:
        NotFound: there is no such import.
        FileMissing, Refused, NotComplete, StorageFull: the file cannot be taken in.
    """
    settings = imports.get(name)
    if settings is None:
        raise no_such_import(name, imports)
    original, received = await receive_by_hand(intake.store, path)
    by = ByHand(notes, tuple(tags), priority, metadata, force)
    cause = Cause(_word(actor), correlation_id=actor.correlation_id)
    async with intake.db.services() as conn, conn.transaction():
        load_id = await intake.take_by_hand(conn, name, settings, original, received, by, cause)
        detail = {"load": load_id, "file": shown(original.name), "size": received.size, "force": force}
        await record_audit(conn, actor, "import", "import", name, detail)
    intake.tell(name, shown(original.name), received.size, load_id)
    return load_id


async def trigger_import(conn: asyncpg.Connection, actor: Actor, name: str) -> int:
    """Enqueue an `import` job: it looks at the source now and is final when its loads are.

    Returns:
        The job's id.
    """
    async with conn.transaction():
        job = NewJob(IMPORT, {"import": name}, queue=QUEUE, correlation_id=actor.correlation_id, triggered_by=_word(actor))
        (job_id,) = await enqueue(conn, [job])
        await record_audit(conn, actor, "trigger", "import", name, {"job": job_id})
    return job_id


async def retry_load(conn: asyncpg.Connection, actor: Actor, load_id: int) -> int:
    """Run a failed load again; it keeps its place before the later loads of its table.

    Returns:
        The id of its job.

    Raises:
        NotFound: there is no such load.
        Conflict: it has not failed.
    """
    async with conn.transaction():
        row = await _lock(conn, load_id)
        if row["status"] != "failed":
            raise Conflict(f"load {load_id} is {row['status']}: only a failed load can be retried", current_state=row["status"])
        job_id: int = row["job_id"]
        # Its job may have been brought back by itself, or be gone from history by retention.
        if not await history.revive(conn, job_id) and await history.find_state(conn, job_id) not in OPEN_STATES:
            job_id = await _new_job(conn, row)
        await store.reset_load(conn, load_id, job_id)
        await record_audit(conn, actor, "retry", "load", load_id, {"job": job_id})
    return job_id


async def skip_load(conn: asyncpg.Connection, actor: Actor, load_id: int) -> None:
    """Give up on a load that failed or waits, and let the loads behind it go on.

    Raises:
        NotFound: there is no such load.
        Conflict: it is running, or it is done.
    """
    async with conn.transaction():
        row = await _lock(conn, load_id)
        reason = f"skipped by {actor.name}"
        if row["status"] == "failed":
            await history.release_key(conn, row["job_id"])
        elif row["status"] != "pending":
            raise Conflict(f"load {load_id} is {row['status']}: there is nothing to skip", current_state=row["status"])
        elif not await history.end_waiting(conn, row["job_id"], State.SKIPPED, reason):
            raise Conflict(f"load {load_id} is running: cancel job {row['job_id']} first", current_state="running")
        await store.skip_load(conn, load_id, reason)
        await record_audit(conn, actor, "skip", "load", load_id, {"before": row["status"]})


def no_such_import(name: str, imports: Mapping[str, ImportSettings]) -> NotFound:
    """The error for a name that is not in the configuration."""
    known = f"; declared: {', '.join(sorted(imports))}" if imports else "; none is declared"
    return NotFound(f'there is no import "{name}"{did_you_mean(name, imports) or known}')


async def _lock(conn: asyncpg.Connection, load_id: int) -> asyncpg.Record:
    row = await store.lock_load(conn, load_id)
    if row is None:
        raise NotFound(f"there is no load {load_id}")
    return row


async def _new_job(conn: asyncpg.Connection, row: asyncpg.Record) -> int:
    """A job in place of one that retention has removed from history."""
    job = NewJob(
        LOAD,
        {"load": row["id"]},
        queue=QUEUE,
        priority=row["priority"],
        key=table_key(row["target"]),
        key_strict=row["mode"] != "append",
        store=row["store"],
        tags=tuple(row["tags"]),
        notes=row["notes"],
        metadata=row["metadata"],
        correlation_id=row["correlation_id"],
        triggered_by="retry",
    )
    (job_id,) = await enqueue(conn, [job])
    return job_id


def _word(actor: Actor) -> str:
    """How an entrance is called where jobs say what triggered them."""
    return actor.via if actor.via in ("cli", "api", "page", "schedule", "workflow", "folder") else "api"
