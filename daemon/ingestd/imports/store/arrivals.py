"""The SQL of arrivals, of the loads made for them, and of what people do to those loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from ingestd.files.identity import Stamp, actual, shown

# Held to the end of the transaction: the ids of loads and jobs into one table become visible in the order they were given.
IN_ORDER = "select pg_advisory_xact_lock(hashtextextended('ingestd:arrival:' || $1::text, 0))"
KNOWN = """
select a.path, a.size, a.mtime_ns
from unnest($3::text[], $4::bigint[], $5::bigint[]) p(path, size, mtime_ns)
join ingestd.arrival a on a.import = $1 and a.store = $2 and a.path = p.path and a.size = p.size and a.mtime_ns = p.mtime_ns"""
NEW_ARRIVAL = """
insert into ingestd.arrival (import, store, path, name, size, mtime_ns, file_id, triggered_by)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (import, store, path, size, mtime_ns) do nothing returning id"""
FIND_ARRIVAL = """
select id from ingestd.arrival where import = $1 and store = $2 and path = $3 and size = $4 and mtime_ns = $5"""
NEW_LOAD = """
insert into ingestd.load (import, target, mode, arrival_id, file_id, file_name, bytes, priority, tags, notes, metadata,
                          triggered_by, correlation_id, job_parent)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) returning id"""
SET_JOB = "update ingestd.load set job_id = $2 where id = $1"
TO_RUN = """
select l.id, l.import, l.target, l.mode, l.status, l.reason, l.file_id, l.file_name, f.store, f.path as kept, f.size,
       a.store as source_store, a.path, a.size as source_size, a.mtime_ns, a.triggered_by
from ingestd.load l join ingestd.file f on f.id = l.file_id join ingestd.arrival a on a.id = l.arrival_id
where l.id = $1"""
RETARGET = "update ingestd.load set target = $2, mode = $3 where id = $1 and status = 'pending'"
FAIL = """
update ingestd.load set status = 'failed', reason = $2, finished_at = now() where id = $1 and status = 'pending' returning id"""
# A load whose job ended without it: cancelled, quarantined, timed out for the last time. One snapshot sees load and job
# together, so a job that has just been acked with its load is never found here.
FAIL_LOST = """
with lost as materialized (
    select l.id, l.job_id from ingestd.load l
    where l.status = 'pending' and not exists (select from ingestd.job j where j.id = l.job_id)
)
update ingestd.load l
set status = 'failed', finished_at = now(),
    reason = coalesce(h.reason, h.error ->> 'message', 'its job ended: ' || coalesce(h.state, 'gone'))
from lost left join ingestd.history h on h.id = lost.job_id
where l.id = lost.id and l.status = 'pending'
returning l.id, l.import, l.file_name, l.reason"""
OF_PARENT = """
select id, status, file_name, reason, read, inserted, updated, unchanged, rejected, superseded
from ingestd.load where job_parent = $1 order by id"""
# The last word on each arrival that is still lying in its source.
CLEARABLE = """
select p.path, p.size, p.mtime_ns
from unnest($3::text[], $4::bigint[], $5::bigint[]) p(path, size, mtime_ns)
join ingestd.arrival a on a.import = $1 and a.store = $2 and a.path = p.path and a.size = p.size and a.mtime_ns = p.mtime_ns
join lateral (select status from ingestd.load where arrival_id = a.id order by id desc limit 1) l on true
where a.triggered_by = 'folder' and l.status in ('succeeded', 'partial', 'skipped')"""
LOCK_LOAD = """
select l.id, l.import, l.target, l.mode, l.status, l.job_id, l.file_name, l.priority, l.tags, l.notes, l.metadata,
       l.correlation_id, f.store
from ingestd.load l join ingestd.file f on f.id = l.file_id where l.id = $1 for update of l"""
RESET = """
update ingestd.load
set status = 'pending', reason = null, error = null, duplicate_of = null, read = null, inserted = null, updated = null,
    unchanged = null, rejected = null, superseded = null, started_at = null, finished_at = null, duration_ms = null, job_id = $2
where id = $1"""
FORGET_REJECTS = "delete from ingestd.reject where load_id = $1"
# Why it had failed is what whoever finds it skipped wants to know next.
SKIP = """
update ingestd.load
set status = 'skipped', reason = $2 || case when status = 'failed' then coalesce('; it had failed: ' || reason, '') else '' end,
    finished_at = coalesce(finished_at, now())
where id = $1"""


@dataclass(frozen=True, slots=True)
class NewLoad:
    """A load to be made for an arrival.

    Args:
        file_name: name below the folder of the source; loads of one name supersede each other.
        size: bytes.
        priority: -100..100, larger is sooner.
        parent_id: the `import` job that found the file.
    """

    import_name: str
    target: str
    mode: str
    arrival_id: int
    file_id: int
    file_name: str
    size: int
    priority: int = 0
    tags: tuple[str, ...] = ()
    notes: str | None = None
    metadata: Mapping[str, Any] | None = None
    triggered_by: str = "folder"
    correlation_id: str | None = None
    parent_id: int | None = None


async def lock_order(conn: asyncpg.Connection, target: str) -> None:
    """Wait until nobody else is making a load into this table, to the end of the transaction."""
    await conn.execute(IN_ORDER, target)


async def known(conn: asyncpg.Connection, import_name: str, store: UUID, files: Sequence[tuple[str, Stamp]]) -> set[tuple[str, Stamp]]:
    """Those of `files` (path, stamp) that have arrived before."""
    return await _look_up(conn, KNOWN, import_name, store, files)


async def clearable(conn: asyncpg.Connection, import_name: str, store: UUID, files: Sequence[tuple[str, Stamp]]) -> set[tuple[str, Stamp]]:
    """Those of `files` (path, stamp) that a folder watch took in and that have been loaded or skipped."""
    return await _look_up(conn, CLEARABLE, import_name, store, files)


async def _look_up(
    conn: asyncpg.Connection, statement: str, import_name: str, store: UUID, files: Sequence[tuple[str, Stamp]]
) -> set[tuple[str, Stamp]]:
    if not files:
        return set()
    rows = await conn.fetch(
        statement,
        import_name,
        store,
        [shown(path) for path, _ in files],
        [stamp.size for _, stamp in files],
        [stamp.mtime_ns for _, stamp in files],
    )
    return {(actual(row["path"]), Stamp(row["size"], row["mtime_ns"])) for row in rows}


async def new_arrival(
    conn: asyncpg.Connection,
    import_name: str,
    store: UUID,
    path: str,
    name: str,
    stamp: Stamp,
    file_id: int,
    triggered_by: str,
) -> int | None:
    """Insert an arrival; None if it was seen before.

    Args:
        path: absolute path, as the file system has it.
        name: the name it is shown under.
    """
    arrival_id: int | None = await conn.fetchval(
        NEW_ARRIVAL, import_name, store, shown(path), name, stamp.size, stamp.mtime_ns, file_id, triggered_by
    )
    return arrival_id


async def find_arrival(conn: asyncpg.Connection, import_name: str, store: UUID, path: str, stamp: Stamp) -> int | None:
    """The arrival that was seen before."""
    arrival_id: int | None = await conn.fetchval(FIND_ARRIVAL, import_name, store, shown(path), stamp.size, stamp.mtime_ns)
    return arrival_id


async def new_load(conn: asyncpg.Connection, load: NewLoad) -> int:
    """Insert a pending load; returns its id."""
    load_id: int = await conn.fetchval(
        NEW_LOAD,
        load.import_name,
        load.target,
        load.mode,
        load.arrival_id,
        load.file_id,
        load.file_name,
        load.size,
        load.priority,
        list(load.tags),
        load.notes,
        None if load.metadata is None else dict(load.metadata),
        load.triggered_by,
        load.correlation_id,
        load.parent_id,
    )
    return load_id


async def set_job(conn: asyncpg.Connection, load_id: int, job_id: int) -> None:
    """Note which job runs a load."""
    await conn.execute(SET_JOB, load_id, job_id)


async def load_to_run(conn: asyncpg.Connection, load_id: int) -> asyncpg.Record | None:
    """A load with where its bytes lie and where they came from."""
    return await conn.fetchrow(TO_RUN, load_id)


async def retarget(conn: asyncpg.Connection, load_id: int, target: str, mode: str) -> None:
    """Follow the configuration where it changed between arrival and load."""
    await conn.execute(RETARGET, load_id, target, mode)


async def fail_load(conn: asyncpg.Connection, load_id: int, reason: str) -> bool:
    """Mark a pending load as failed; False if it is final already."""
    return await conn.fetchval(FAIL, load_id, reason) is not None


async def fail_lost_loads(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Mark as failed the pending loads whose job has ended without them."""
    rows: list[asyncpg.Record] = await conn.fetch(FAIL_LOST)
    return rows


async def loads_of_parent(conn: asyncpg.Connection, job_id: int) -> list[asyncpg.Record]:
    """The loads that an `import` job made, in order."""
    rows: list[asyncpg.Record] = await conn.fetch(OF_PARENT, job_id)
    return rows


async def lock_load(conn: asyncpg.Connection, load_id: int) -> asyncpg.Record | None:
    """A load's row, locked to the end of the transaction."""
    return await conn.fetchrow(LOCK_LOAD, load_id)


async def reset_load(conn: asyncpg.Connection, load_id: int, job_id: int) -> None:
    """Make a failed load pending again, without what its last run left behind."""
    await conn.execute(FORGET_REJECTS, load_id)
    await conn.execute(RESET, load_id, job_id)


async def skip_load(conn: asyncpg.Connection, load_id: int, reason: str) -> None:
    """Mark a load as skipped."""
    await conn.execute(SKIP, load_id, reason)
