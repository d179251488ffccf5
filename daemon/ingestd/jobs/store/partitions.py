"""History's partitions, made ahead of time and dropped when their time has passed."""

from __future__ import annotations

from datetime import timedelta

import asyncpg

AHEAD = 14
MAKE = """
select ingestd.make_partitions('ingestd.history_ok', 'day', $1) + ingestd.make_partitions('ingestd.history_bad', 'month', $1)"""
# The upper bound of a partition is its name's day or month plus one; it is past when even its youngest row is too old.
EXPIRED = """
select c.oid::regclass::text as name, p.relname = 'history_ok' as ok, greatest(c.reltuples, 0)::bigint as rows
from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
join pg_namespace n on n.oid = p.relnamespace
where n.nspname = 'ingestd' and p.relname in ('history_ok', 'history_bad')
  and case p.relname
      when 'history_ok' then to_date(right(c.relname, 8), 'YYYYMMDD') + interval '1 day' <= (now() at time zone 'UTC') - $1::interval
      else to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month' <= (now() at time zone 'UTC') - $2::interval end
order by c.relname"""
DROP = "drop table {name}"


async def make_partitions(conn: asyncpg.Connection, ahead: int = AHEAD) -> int:
    """Make history partitions that are missing, `ahead` days and months from now; returns how many."""
    made: int = await conn.fetchval(MAKE, ahead)
    return made


async def drop_expired(conn: asyncpg.Connection, keep_ok: timedelta, keep_bad: timedelta, *, dry_run: bool = False) -> list[str]:
    """Drop history partitions whose youngest row is older than what is kept.

    Returns:
        The names of the partitions that were, or with `dry_run` would be, dropped.
    """
    names = [row["name"] for row in await conn.fetch(EXPIRED, keep_ok, keep_bad)]
    if not dry_run:
        for name in names:
            async with conn.transaction():
                await conn.execute("set local lock_timeout = '2s'")
                await conn.execute(DROP.format(name=name))
    return names
