"""What a bulk matches: counts and a sample for people, ids in chunks for the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from ingestd.jobs.filters import JobFilter
from ingestd.jobs.store.where import STATE, done_where, open_where

_COUNT_OPEN = f"select {STATE} as state, j.kind, count(*)::bigint as n from ingestd.job j where {{where}} group by 1, 2"
_COUNT_DONE = """
select case when h.partial then 'partial' else h.state end as state, h.kind, count(*)::bigint as n
from ingestd.history h where {where} group by 1, 2"""
BOUND = """
select coalesce(pg_sequence_last_value(pg_get_serial_sequence('ingestd.job', 'id')::regclass), 0) as last_id,
       clock_timestamp() as asked_at"""
_OPEN_IDS = "select j.id from ingestd.job j where {where} and j.id > $1 and j.id <= $2 order by j.id limit $3"
_DONE_IDS = """
select h.id from ingestd.history h where {where} and h.id > $1 and h.id <= $2 and h.finished_at <= $4 order by h.id limit $3"""

MARK = "update ingestd.job set args = args || jsonb_build_object('mark', $2::jsonb) where id = $1"


@dataclass(frozen=True, slots=True)
class Bound:
    """What was there when a bulk was asked for; jobs that came or ended later are none of its business."""

    last_id: int
    asked_at: datetime


async def count(conn: asyncpg.Connection, which: JobFilter) -> list[Mapping[str, Any]]:
    """How many jobs match exactly: rows of `state`, `kind`, `n`, the most first."""
    values: list[Any] = []
    arms = [
        arm.format(where=where)
        for arm, where in ((_COUNT_OPEN, open_where(which, values)), (_COUNT_DONE, done_where(which, values)))
        if where is not None
    ]
    if not arms:
        return []
    rows: list[Mapping[str, Any]] = await conn.fetch(
        f"select * from ({' union all '.join(arms)}) counts order by n desc, state, kind", *values
    )
    return rows


async def bound(conn: asyncpg.Connection) -> Bound:
    """Draw the line between what is there and what comes later."""
    row = await conn.fetchrow(BOUND)
    return Bound(row["last_id"], row["asked_at"])


async def open_ids(conn: asyncpg.Connection, which: JobFilter, until: Bound, after: int, limit: int) -> list[int]:
    """The next open jobs that match, by id."""
    values: list[Any] = [after, until.last_id, limit]
    where = open_where(which, values)
    return [row["id"] for row in await conn.fetch(_OPEN_IDS.format(where=where), *values)] if where else []


async def done_ids(conn: asyncpg.Connection, which: JobFilter, until: Bound, after: int, limit: int) -> list[int]:
    """The next finished jobs that match, by id."""
    values: list[Any] = [after, until.last_id, limit, until.asked_at]
    where = done_where(which, values)
    return [row["id"] for row in await conn.fetch(_DONE_IDS.format(where=where), *values)] if where else []


async def keep_mark(conn: asyncpg.Connection, job_id: int, mark: Mapping[str, Any]) -> None:
    """Write down how far a `bulk` job has come; call it within its fenced step."""
    await conn.execute(MARK, job_id, dict(mark))
