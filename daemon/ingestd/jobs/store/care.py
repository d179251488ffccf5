"""Looking after tables that turn over all day: which indexes are bloated, which tables autovacuum has left, and what was done about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import asyncpg

# An index entry is its columns (as wide as ANALYZE found them, in the table or, for expressions, in the index) plus 12 bytes of
# header and pointer; pages of a tree that grew at random are two thirds full. Dead entries that vacuum has not removed yet would
# come along into a new index, so they count as live: of an index that is full of those nothing is gained. All that errs
# towards a larger estimate, so that what is called bloated is. Partitions are left out: their indexes only grow.
INDEXES = """
select format('%I.%I', n.nspname, c.relname) as name, c.relname, pg_relation_size(c.oid) as bytes,
       (coalesce(greatest(c.reltuples, 0), 0) + coalesce(s.n_live_tup + s.n_dead_tup, 0))::bigint as entries,
       12 + (select sum(ceil(coalesce(w.avg_width, 16) / 8.0) * 8) from pg_attribute a
             left join lateral (select max(avg_width) as avg_width from pg_stats p where p.schemaname = n.nspname
                                and p.tablename in (t.relname, c.relname) and p.attname = a.attname) w on true
             where a.attrelid = c.oid and a.attnum > 0)::bigint as width
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
join pg_namespace n on n.oid = t.relnamespace join pg_am m on m.oid = c.relam
left join pg_stat_user_tables s on s.relid = t.oid
where n.nspname = 'ingestd' and t.relkind = 'r' and not t.relispartition and m.amname = 'btree' and i.indisvalid and i.indisready
  and pg_relation_size(c.oid) > $1
order by bytes desc"""
FULL = 0.66
PAGE = 8192 - 24

# What a REINDEX CONCURRENTLY leaves that was interrupted. One that is under way just now, by anybody, is not left over.
LEFT_OVER = r"""
select format('%I.%I', n.nspname, c.relname) as name
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'ingestd' and not i.indisvalid and c.relname ~ '_cc(new|old)\d*$' and not t.relispartition
  and not exists (select from pg_stat_progress_create_index p where p.relid = t.oid)"""

# Only tables that say by count when they want to be vacuumed, and only far beyond that.
STARVED = """
select format('%I.%I', s.schemaname, s.relname) as name, n_dead_tup as dead
from pg_stat_user_tables s join pg_class c on c.oid = s.relid
cross join lateral (select split_part(o, '=', 2)::bigint as threshold from unnest(c.reloptions) o
                    where o like 'autovacuum_vacuum_threshold=%') wanted
where schemaname = 'ingestd' and n_dead_tup > greatest(wanted.threshold * $1, $2)
  and coalesce(greatest(last_autovacuum, last_vacuum), '-infinity') < now() - $3::interval
  and not exists (select from pg_stat_progress_vacuum v where v.relid = s.relid)
order by n_dead_tup desc"""

# Noted before it is begun: who dies over it does not come back to it before its time.
TURN = """
insert into ingestd.care as c (action, object) values ($1, $2)
on conflict (action, object) do update set at = now() where c.at < now() - $3::interval
returning true"""
DAILY = """
insert into ingestd.care as c (action, object) values ('cleanup', 'ingestd')
on conflict (action, object) do update set at = now() where c.at < now() - $1::interval
returning xmax <> 0"""
CLEANED = """
insert into ingestd.care (action, object) values ('cleanup', 'ingestd') on conflict (action, object) do update set at = now()"""
SIZE = "select pg_relation_size($1::text::regclass)"
REINDEX = "reindex index concurrently {name}"
DROP_INDEX = "drop index concurrently if exists {name}"
VACUUM = "vacuum (skip_locked) {name}"
PATIENCE = "select set_config('lock_timeout', $1, false)"


@dataclass(frozen=True, slots=True)
class Index:
    """An index and how large it should be.

    Args:
        bytes: as it is.
        expected: in bytes, at most, if it were built anew and had then grown at random.
    """

    name: str
    bytes: int
    expected: int


async def large_indexes(conn: asyncpg.Connection, least_bytes: int) -> list[Index]:
    """Indexes of tables that turn over, larger than that."""
    return [
        Index(row["name"], row["bytes"], int(max(row["entries"] * row["width"] / FULL / PAGE, 1) * 8192))
        for row in await conn.fetch(INDEXES, least_bytes)
    ]


async def left_over(conn: asyncpg.Connection) -> list[str]:
    """Invalid indexes that an interrupted rebuild has left."""
    return [row["name"] for row in await conn.fetch(LEFT_OVER)]


async def starved(conn: asyncpg.Connection, times: int, least: int, silent: timedelta) -> list[tuple[str, int]]:
    """Tables that should have been vacuumed long ago, and their dead rows.

    Args:
        times: so many times the dead rows at which autovacuum should come.
        least: and at least that many.
        silent: since nobody has vacuumed it.
    """
    return [(row["name"], row["dead"]) for row in await conn.fetch(STARVED, times, least, silent)]


async def take_turn(conn: asyncpg.Connection, action: str, name: str, every: timedelta) -> bool:
    """Whether it is time for this again; if so, it is noted as done now."""
    return bool(await conn.fetchval(TURN, action, name, every))


async def cleanup_is_due(conn: asyncpg.Connection, every: timedelta) -> bool:
    """Whether nobody has cleaned up for so long, noting that it is done now; not on the first look ever."""
    return bool(await conn.fetchval(DAILY, every))


async def note_cleanup(conn: asyncpg.Connection) -> None:
    """Remember that somebody has cleaned up now."""
    await conn.execute(CLEANED)


async def drop_index(conn: asyncpg.Connection, name: str) -> None:
    """Drop an index without blocking anybody."""
    await conn.execute(DROP_INDEX.format(name=name))


async def rebuild(conn: asyncpg.Connection, name: str) -> int:
    """Build an index anew beside the old one, while everybody goes on; returns its size in bytes."""
    await conn.execute(REINDEX.format(name=name))
    size: int = await conn.fetchval(SIZE, name)
    return size


async def vacuum(conn: asyncpg.Connection, name: str) -> None:
    """Vacuum a table, unless somebody else is at it."""
    await conn.execute(VACUUM.format(name=name))


async def be_patient(conn: asyncpg.Connection, lock_timeout_ms: int) -> None:
    """How long this session waits for a lock or an old transaction."""
    await conn.execute(PATIENCE, str(lock_timeout_ms))
