"""Statistics from the deltas that acks append; history is never scanned for them."""

from __future__ import annotations

from datetime import timedelta

import asyncpg

# Rows of minutes that are over are folded into one per group; a minute stays open for two in case of slow transactions.
COMPACT = """
with old as (
    delete from ingestd.job_stat where minute < date_trunc('minute', now()) - interval '2 minutes'
      and (minute, kind, queue_id, outcome, bucket) in (
          select minute, kind, queue_id, outcome, bucket from ingestd.job_stat
          where minute < date_trunc('minute', now()) - interval '2 minutes'
          group by 1, 2, 3, 4, 5 having count(*) > 1)
    returning *
)
insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
select minute, kind, queue_id, outcome, bucket, sum(n), sum(ms) from old group by 1, 2, 3, 4, 5"""
FORGET = "delete from ingestd.job_stat where minute < now() - $1::interval"
TOTALS = """
select kind, outcome, sum(n)::bigint as n, sum(ms)::bigint as ms from ingestd.job_stat
where minute >= date_trunc('minute', now() - $1::interval) group by kind, outcome order by kind, outcome"""
PER_MINUTE = """
select minute, sum(n) filter (where outcome = 'succeeded')::bigint as succeeded,
       sum(n) filter (where outcome = 'failed')::bigint as failed, sum(n)::bigint as n
from ingestd.job_stat where minute >= date_trunc('minute', now() - $1::interval) group by minute order by minute"""


async def compact(conn: asyncpg.Connection) -> None:
    """Fold the deltas of past minutes."""
    await conn.execute(COMPACT)


async def forget(conn: asyncpg.Connection, older_than: timedelta) -> None:
    """Drop statistics older than that."""
    await conn.execute(FORGET, older_than)


async def totals(conn: asyncpg.Connection, window: timedelta) -> list[asyncpg.Record]:
    """Jobs by kind and outcome within the window: n and total milliseconds."""
    rows: list[asyncpg.Record] = await conn.fetch(TOTALS, window)
    return rows


async def per_minute(conn: asyncpg.Connection, window: timedelta) -> list[asyncpg.Record]:
    """Finished jobs a minute within the window."""
    rows: list[asyncpg.Record] = await conn.fetch(PER_MINUTE, window)
    return rows
