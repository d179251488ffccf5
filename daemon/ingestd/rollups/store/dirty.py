"""The SQL of the dirty log: from a trigger's row to a recomputed bucket."""

from __future__ import annotations

from datetime import timedelta

import asyncpg

from ingestd.errors import Conflict

# A plan made for any bounds would not know whether they span an hour or ten years.
SESSION = """
select set_config('plan_cache_mode', 'force_custom_plan', true), set_config('statement_timeout', $1, true),
    current_setting('transaction_isolation') as isolation"""
TRY_LOCK_ROLLUP = "select pg_try_advisory_xact_lock(hashtextextended('ingestd:rollup:' || $1::text, 0))"
# One statement, any node, no lock but those of the rows it takes: what the triggers wrote becomes, for each rollup, the buckets
# to recompute. A rollup registered while this runs has its whole range dirty, so nothing taken here can be missed by it.
NORMALISE = """
with taken as (
    delete from ingestd.dirty where id in (
        select id from ingestd.dirty where source_id is not null and ($1::int is null or source_id = $1)
        order by id for update skip locked)
    returning source_id, lo, hi, at),
merged as (
    select source_id, min(at) as at, unnest(range_agg(tstzrange(lo, hi))) as stretch from taken group by source_id),
aligned as (
    select r.id, min(m.at) as at,
           unnest(range_agg(ingestd.bucket_range(lower(stretch), upper(stretch), r.width, r.zone))) as stretch
    from merged m join ingestd.rollup r using (source_id) where r.stage <> 'retired' group by r.id)
insert into ingestd.dirty (rollup_id, lo, hi, at) select id, lower(stretch), upper(stretch), at from aligned
returning rollup_id"""
ANY_RAW = "select exists (select from ingestd.dirty where source_id is not null)"
# The log of a rollup that is not refreshed must not grow without end.
COMPACT = """
with crowded as (
    select d.rollup_id from ingestd.dirty d join ingestd.rollup r on r.id = d.rollup_id
    where r.flag in ('off', 'frozen') group by d.rollup_id having count(*) > $1),
taken as (
    delete from ingestd.dirty where id in (
        select id from ingestd.dirty where rollup_id in (select rollup_id from crowded) order by id for update skip locked)
    returning rollup_id, lo, hi, prio, at)
insert into ingestd.dirty (rollup_id, lo, hi, prio, at)
select rollup_id, lower(stretch), upper(stretch), prio, at from (
    select rollup_id, prio, min(at) as at, unnest(range_agg(tstzrange(lo, hi))) as stretch from taken group by rollup_id, prio) merged"""
# Due: nothing new for a moment, or a change getting old under steady writing.
DUE = """
select r.name from ingestd.rollup r join ingestd.dirty d on d.rollup_id = r.id
where r.stage <> 'retired' and r.flag in ('on', 'shadow') and r.state = 'ready'
group by r.name
having max(d.at) <= clock_timestamp() - $1::interval or max(d.prio) > 0
    or bool_or(d.at <= clock_timestamp() - r.max_staleness / 2)
order by min(d.at)"""
# How long a stretch is recomputed by one statement: about `$4` rows of the source, as far as statistics know.
STRETCH = """
with recursive tree as (
    select to_regclass($2)::oid as part
    union all
    select i.inhrelid from tree join pg_inherits i on i.inhparent = tree.part),
guess as (
    select sum(case when c.relpages > 0 and c.reltuples >= 0
                    then c.reltuples / c.relpages * (pg_relation_size(c.oid) / current_setting('block_size')::int)
                    else pg_relation_size(c.oid) / 100 end) as amount
    from tree join pg_class c on c.oid = tree.part),
held as (
    select min(lo) as lo, max(hi) as hi from (
        select min(lo) as lo, max(hi) as hi from ingestd.dirty where rollup_id = $1 and isfinite(lo) and isfinite(hi)
        union all select $3::timestamptz, $5::timestamptz) known)
select make_interval(secs => greatest(86400, extract(epoch from hi - lo) * $4::float8 / greatest(amount, $4::float8))::float8)
from guess, held"""
ENDLESS = "select exists (select from ingestd.dirty where rollup_id = $1 and not (isfinite(lo) and isfinite(hi)))"
SPLIT = """
with wide as (delete from ingestd.dirty where rollup_id = $1 and hi - lo > $2::interval returning lo, hi, prio, at)
insert into ingestd.dirty (rollup_id, lo, hi, prio, at)
select $1, piece, least(piece + $2, hi), prio, at from wide, generate_series(lo, hi - interval '1 microsecond', $2) piece"""
# An endless stretch that came in since is left for the next refresh, which bounds it first.
PICK = """
with newest as (
    select id, hi from ingestd.dirty where rollup_id = $1 and isfinite(lo) and isfinite(hi) order by prio, hi desc, id limit 1),
picked as (
    select d.id, d.lo, d.hi from ingestd.dirty d, newest
    where d.rollup_id = $1 and (d.id = newest.id or (isfinite(d.lo) and d.hi <= newest.hi and d.lo >= newest.hi - $2::interval))),
aligned as (
    select array_agg(p.id) as ids, range_agg(ingestd.bucket_range(p.lo, p.hi, r.width, r.zone))
           * tstzmultirange(tstzrange(min(r.floor), null)) as ranges
    from picked p, ingestd.rollup r where r.id = $1)
select ids, ranges::text, lower(ranges) as lo, upper(ranges) as hi from aligned where ids is not null"""
REFRESHED = """
update ingestd.rollup set last_refresh_at = clock_timestamp(), last_refresh_ms = $2, "rows" = "rows" + $3, buckets = buckets + $4,
    built_at = coalesce(built_at, case when not exists (
        select from ingestd.dirty where rollup_id = $1 and prio > 0) then clock_timestamp() end)
where id = $1"""
MARK_SOURCE = "insert into ingestd.dirty (source_id, lo, hi) values ($1, '-infinity', 'infinity')"


async def try_lock_rollup(conn: asyncpg.Connection, rollup_id: int) -> bool:
    """Take the rollup for a refresh, to the end of the transaction; False if another has it."""
    return bool(await conn.fetchval(TRY_LOCK_ROLLUP, str(rollup_id)))


async def normalise(conn: asyncpg.Connection, source_id: int | None = None) -> set[int]:
    """Hand what the triggers logged to the rollups it concerns.

    Args:
        source_id: only this source's; None: all.

    Returns:
        Ids of the rollups that have something to do.
    """
    return {row["rollup_id"] for row in await conn.fetch(NORMALISE, source_id)}


async def due(conn: asyncpg.Connection, quiet: timedelta) -> list[str]:
    """Names of the rollups to refresh now, the most stale first.

    Args:
        quiet: a rollup unchanged for this long is due.
    """
    return [row["name"] for row in await conn.fetch(DUE, quiet)]


async def compact(conn: asyncpg.Connection, above: int) -> None:
    """Join the dirty rows of rollups that are not refreshed and have more than `above` of them."""
    await conn.execute(COMPACT, above)


async def any_raw(conn: asyncpg.Connection) -> bool:
    """Whether triggers wrote anything that is not normalised yet."""
    return bool(await conn.fetchval(ANY_RAW))


async def mark_source(conn: asyncpg.Connection, source_id: int) -> None:
    """Declare everything in a source changed."""
    await conn.execute(MARK_SOURCE, source_id)


async def endless(conn: asyncpg.Connection, rollup_id: int) -> bool:
    """Whether a stretch of the rollup has no end and must be bounded first."""
    return bool(await conn.fetchval(ENDLESS, rollup_id))


async def stretch(conn: asyncpg.Connection, rollup_id: int, source: str, table: str, rows: int) -> timedelta | None:
    """How long a stretch holds about `rows` rows of the source, a day at least; None if nothing is known.

    Args:
        source: the source table, quoted.
        table: the rollup's table, quoted.
    """
    held = await conn.fetchrow(f"select min(bucket) as lo, max(bucket) as hi from {table}")
    found: timedelta | None = await conn.fetchval(STRETCH, rollup_id, source, held["lo"], rows, held["hi"])
    return found


async def prepare_session(conn: asyncpg.Connection, statement_timeout: timedelta) -> None:
    """Set how the rest of the transaction plans, and how long a statement may take.

    Raises:
        Conflict: the transaction keeps one snapshot throughout.
    """
    row = await conn.fetchrow(SESSION, str(int(statement_timeout.total_seconds() * 1000)))
    if row["isolation"] != "read committed":
        raise Conflict(
            "a refresh needs a READ COMMITTED transaction: its snapshot must begin after its lock", current_state=row["isolation"]
        )


async def bound(conn: asyncpg.Connection, rollup_id: int, statement: str) -> None:
    """Cut the endless stretches of a rollup to what there is (statement: `sql.bound`)."""
    await conn.execute(statement, rollup_id)


async def recompute(conn: asyncpg.Connection, statement: str, picked: asyncpg.Record) -> asyncpg.Record:
    """Recompute what was picked (statement: `sql.refresh`); the row counts what it did."""
    return await conn.fetchrow(statement, picked["ids"], picked["ranges"], picked["lo"], picked["hi"])


async def split(conn: asyncpg.Connection, rollup_id: int, stretch: timedelta) -> None:
    """Cut what is longer than `stretch` into pieces of that length."""
    await conn.execute(SPLIT, rollup_id, stretch)


async def pick(conn: asyncpg.Connection, rollup_id: int, stretch: timedelta) -> asyncpg.Record | None:
    """The dirty rows to do next: changes before first builds, the newest first, all within one stretch."""
    return await conn.fetchrow(PICK, rollup_id, stretch)


async def refreshed(conn: asyncpg.Connection, rollup_id: int, ms: int, more_rows: int, more_buckets: int) -> None:
    """Store that a rollup was refreshed just now."""
    await conn.execute(REFRESHED, rollup_id, ms, more_rows, more_buckets)
