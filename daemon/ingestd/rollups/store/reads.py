"""The SQL of what people see of rollups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg

LISTED = """
select r.name, r.spec, r.flag, r.state, r.reason, r.since,
    extract(epoch from clock_timestamp() - r.since)::float8 as since_seconds, r.max_staleness, r.exposed, r.built_at, r.last_refresh_at,
    r.last_refresh_ms, r."rows", r.buckets, n.state as next_state, n.reason as next_reason, n.id is not null as succeeded,
    coalesce(d.ranges, 0) as dirty_ranges, d.endless,
    extract(epoch from greatest(clock_timestamp() - d.since, interval '0'))::float8 as staleness_seconds
from ingestd.rollup r
left join ingestd.rollup n on n.name = r.name and n.stage = 'successor'
cross join lateral (
    select min(at) as since, bool_or(lo = '-infinity') as endless,
        (select count(*) from unnest(range_agg(ingestd.bucket_range(lo, hi, r.width, r.zone)))) as ranges
    from (select at, lo, hi from ingestd.dirty where rollup_id = r.id
          union all select at, lo, hi from ingestd.dirty where source_id = r.source_id) logged) d
where r.stage = 'serving' and ($1::text is null or r.name = $1)
order by r.name"""
READING = """
select set_config('transaction_read_only', 'on', true), set_config('statement_timeout', $1, true)"""


async def listed(conn: asyncpg.Connection, name: str | None = None) -> list[asyncpg.Record]:
    """What is known of one rollup or all."""
    rows: list[asyncpg.Record] = await conn.fetch(LISTED, name)
    return rows


async def read_only(conn: asyncpg.Connection, statement: str, arguments: Sequence[Any], timeout: timedelta) -> list[asyncpg.Record]:
    """Run a generated SELECT in a read-only transaction of its own, bounded in time."""
    async with conn.transaction():
        await conn.execute(READING, str(int(timeout.total_seconds() * 1000)))
        rows: list[asyncpg.Record] = await conn.fetch(statement, *arguments)
        return rows
