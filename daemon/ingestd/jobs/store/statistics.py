"""Statistics from the deltas that acks append; history is never scanned for them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import asyncpg

# Rows of minutes that are over are folded into one per group; a minute stays open for two in case of slow transactions. What a
# pass inserts is the sum of what it deleted itself, so that two at once never count twice; the lock only spares them the work.
ALONE = "select pg_try_advisory_xact_lock(hashtextextended('ingestd:statistics', 0))"
COMPACT = """
with folded as (
    select minute, kind, queue_id, outcome, bucket from ingestd.job_stat
    where minute < date_trunc('minute', now()) - interval '2 minutes' and minute >= date_trunc('minute', now()) - $1::interval
    group by 1, 2, 3, 4, 5 having count(*) > 1
), old as (
    delete from ingestd.job_stat s using folded f
    where s.minute = f.minute and s.kind = f.kind and s.queue_id = f.queue_id and s.outcome = f.outcome and s.bucket = f.bucket
    returning s.*
)
insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
select minute, kind, queue_id, outcome, bucket, sum(n), sum(ms) from old group by 1, 2, 3, 4, 5"""
RECENT = timedelta(hours=2)
TOTALS = """
select kind, outcome, sum(n)::bigint as n, sum(ms)::bigint as ms from ingestd.job_stat
where minute >= date_trunc('minute', now() - $1::interval) group by kind, outcome order by kind, outcome"""
# How long runs of some kinds took, as a histogram; the last bucket has no upper end.
LAST_BUCKET = 23
DURATIONS = """
select kind, bucket, sum(n)::bigint as n from ingestd.job_stat
where minute >= now() - $2::interval and kind = any ($1::text[]) and outcome = 'succeeded' group by kind, bucket"""
PER_MINUTE = """
select minute, sum(n) filter (where outcome = 'succeeded')::bigint as succeeded,
       sum(n) filter (where outcome = 'failed')::bigint as failed, sum(n)::bigint as n
from ingestd.job_stat where minute >= date_trunc('minute', now() - $1::interval) group by minute order by minute"""


async def compact(conn: asyncpg.Connection, window: timedelta = RECENT) -> None:
    """Fold the deltas of past minutes, unless somebody else is at it.

    Args:
        window: how far back to look; what is older was folded in its time.
    """
    async with conn.transaction():
        if await conn.fetchval(ALONE):
            await conn.execute(COMPACT, window)


async def totals(conn: asyncpg.Connection, window: timedelta) -> list[asyncpg.Record]:
    """Jobs by kind and outcome within the window: n and total milliseconds."""
    rows: list[asyncpg.Record] = await conn.fetch(TOTALS, window)
    return rows


async def durations(conn: asyncpg.Connection, kinds: Collection[str], window: timedelta) -> dict[str, dict[int, int]]:
    """Runs that succeeded within the window, by kind and bucket: bucket k are those of at most 2^k ms."""
    found: dict[str, dict[int, int]] = {}
    for row in await conn.fetch(DURATIONS, list(kinds), window):
        found.setdefault(row["kind"], {})[row["bucket"]] = row["n"]
    return found


async def per_minute(conn: asyncpg.Connection, window: timedelta) -> list[asyncpg.Record]:
    """Finished jobs a minute within the window."""
    rows: list[asyncpg.Record] = await conn.fetch(PER_MINUTE, window)
    return rows
