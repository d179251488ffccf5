"""Imports, loads and rejects as people and programs look at them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg

from ingestd.jobs.store.reads import STATE

_LOAD = f"""
select l.id, l.import as import_name, l.file_name as file, l.status, l.read, l.inserted, l.updated, l.unchanged, l.rejected,
       l.superseded, l.duration_ms, l.triggered_by, coalesce(l.reason, case when l.status = 'pending' then
           case when hold.job_id is not null
                    then format('blocked: load %s (%s) failed; ingestd loads retry|skip %1$s', held.id, held.file_name)
                when j.parked & 2 <> 0 then 'waits for earlier loads into ' || l.target
                when j.attempt > 0 and j.claim is null then j.attempts -> -1 -> 'error' ->> 'message' end end) as reason,
       case when l.status = 'pending' then coalesce({STATE}, 'blocked') else l.status end as state,
       held.id as blocked_by, n.progress -> j.id::text as progress, l.target as "table", l.mode, l.bytes, l.job_id, l.duplicate_of,
       l.created_table, l.tags, l.notes, l.metadata, l.correlation_id, l.created_at,
       coalesce(l.started_at, j.claimed_at) as started_at, l.finished_at
from ingestd.load l
left join ingestd.job j on l.status = 'pending' and j.id = l.job_id
left join ingestd.node_progress n on n.node = j.node
left join ingestd.key_hold hold on j.parked & 2 <> 0 and hold.key = j.key
left join ingestd.load held on held.job_id = hold.job_id"""
LOADS = f"""{_LOAD}
where ($1::text is null or l.import = $1) and ($2::text is null or l.status = $2) and ($3::bigint is null or l.id < $3)
order by l.id desc limit $4"""
LOAD = f"{_LOAD} where l.id = $1"
ORIGIN = """
select a.path, a.arrived_at, a.mtime_ns, encode(f.sha256, 'hex') as sha256, f.store, f.received_at, l.error, l.job_parent
from ingestd.load l join ingestd.arrival a on a.id = l.arrival_id join ingestd.file f on f.id = l.file_id where l.id = $1"""
REJECT_KINDS = """
select code, "column", count(*) as n, min(record) as first_record from ingestd.reject where load_id = $1
group by 1, 2 order by n desc, 1, 2 limit 50"""
# A record may be rejected for several columns: a page ends after a whole record.
REJECTS = """
select record, "column", code, reason, raw from ingestd.reject where load_id = $1 and record > $3
order by record fetch first $2 rows with ties"""
IMPORTS = """
select n.name, a.arrived_at as last_arrived_at, l.id as last_load, l.status as last_status, l.file_name as last_file,
       l.reason as last_reason, l.finished_at as last_finished_at, l.read, l.inserted, l.updated, l.unchanged, l.rejected, l.superseded,
       o.pending, o.blocked_by, o.blocked_since
from unnest($1::text[]) with ordinality n(name, position)
left join lateral (select arrived_at from ingestd.arrival where import = n.name order by id desc limit 1) a on true
left join lateral (
    select * from ingestd.load where import = n.name and status <> 'pending' order by id desc limit 1
) l on true
left join lateral (
    select count(*) as pending, min(held.id) as blocked_by, min(k.since) as blocked_since
    from ingestd.load p left join ingestd.key_hold k on k.key = 'table:' || p.target left join ingestd.load held on held.job_id = k.job_id
    where p.import = n.name and p.status = 'pending'
) o on true
order by n.position"""
PENDING = "select import, count(*) as n from ingestd.load where status = 'pending' group by 1"
FRESHNESS = """
select n.name, extract(epoch from clock_timestamp() - a.arrived_at)::float8 as seconds from unnest($1::text[]) n(name)
cross join lateral (select arrived_at from ingestd.arrival where import = n.name order by id desc limit 1) a"""
BLOCKING = """
select held.id, held.import, held.file_name, held.target, held.reason, k.since,
       (select count(*) from ingestd.job j where j.key = k.key and j.id <> k.job_id) as waiting
from ingestd.key_hold k join ingestd.load held on held.job_id = k.job_id where held.status = 'failed' order by k.since"""


async def list_imports(conn: asyncpg.Connection, names: Sequence[str]) -> list[dict[str, Any]]:
    """Each import with its last finished load, what is pending, and the load that blocks it.

    Args:
        names: the imports of the configuration, in the order wanted.
    """
    return [dict(row) for row in await conn.fetch(IMPORTS, list(names))]


async def list_loads(
    conn: asyncpg.Connection,
    *,
    import_name: str | None = None,
    status: str | None = None,
    limit: int = 50,
    before_id: int | None = None,
) -> list[dict[str, Any]]:
    """Loads, newest first, as the API shows them (ids still numbers, times still datetimes).

    Args:
        status: pending, succeeded, partial, failed or skipped; None: any. `state` tells more about a pending one.
        before_id: only ids below, for the next page.
    """
    return [dict(row) for row in await conn.fetch(LOADS, import_name, status, before_id, limit)]


async def load_detail(conn: asyncpg.Connection, load_id: int) -> dict[str, Any] | None:
    """One load with where its file came from, its error, and its rejects by kind; None if there is none such."""
    row = await conn.fetchrow(LOAD, load_id)
    if row is None:
        return None
    origin = await conn.fetchrow(ORIGIN, load_id)
    kinds = await conn.fetch(REJECT_KINDS, load_id)
    return dict(row) | dict(origin) | {"rejects": [dict(kind) for kind in kinds]}


async def list_rejects(conn: asyncpg.Connection, load_id: int, limit: int = 100, after: int = 0) -> list[dict[str, Any]]:
    """The rejected records of a load, in file order.

    Args:
        limit: a page has at least this many rows where there are more; it never ends inside a record.
        after: number of the last record of the page before.
    """
    return [dict(row) for row in await conn.fetch(REJECTS, load_id, limit, after)]


async def pending(conn: asyncpg.Connection) -> dict[str, int]:
    """Pending loads by import."""
    return {row["import"]: row["n"] for row in await conn.fetch(PENDING)}


async def freshness(conn: asyncpg.Connection, names: Sequence[str]) -> dict[str, float]:
    """Seconds since something last arrived, by import; one where nothing ever did is left out."""
    return {row["name"]: row["seconds"] for row in await conn.fetch(FRESHNESS, list(names))}


async def blocking_loads(conn: asyncpg.Connection) -> list[tuple[dict[str, Any], datetime]]:
    """Failed loads that hold up later ones, and since when."""
    return [(dict(row), row["since"]) for row in await conn.fetch(BLOCKING)]
