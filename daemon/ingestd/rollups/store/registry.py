"""The SQL of what is declared and what stands for it: rollups, sources, the catalog."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from ingestd.rollups.spec import Spec

# Serialises all changes of rollup definitions across nodes; ends with its transaction.
LOCK_DEFINITIONS = "select pg_advisory_xact_lock(hashtextextended('ingestd:rollups', 0))"
LOCK_ROLLUP = "select pg_advisory_xact_lock(hashtextextended('ingestd:rollup:' || $1::text, 0))"
COLUMNS = """
id, name, version, stage, spec, flag, max_staleness, source_id, columns, stored, "view", exposed, state, reason, built_at"""
ALL = f"select {COLUMNS} from ingestd.rollup order by id"
BY_ID = f"select {COLUMNS} from ingestd.rollup where id = $1 for update"
BY_NAME = f"select {COLUMNS} from ingestd.rollup where name = $1 and stage <> 'retired' order by stage"
INSERT = """
insert into ingestd.rollup (name, version, stage, spec, flag, max_staleness, width, zone)
values ($1, $2, $3, $4, $5, $6, $7, $8) returning id"""
RESPECIFY = """
update ingestd.rollup set version = $2, spec = $3, width = $4, zone = $5, stage = 'serving', state = 'waiting', reason = null,
    columns = null, since = now(), retry_at = '-infinity'
where id = $1"""
ADJUST = "update ingestd.rollup set flag = $2, max_staleness = $3 where id = $1 and (flag, max_staleness) is distinct from ($2, $3)"
RETIRE = "update ingestd.rollup set stage = 'retired', since = now(), retry_at = '-infinity' where id = $1"
DELETE = "with cleaned as (delete from ingestd.dirty where rollup_id = $1) delete from ingestd.rollup where id = $1"
PROMOTE = "update ingestd.rollup set stage = 'serving' where id = $1"
WAIT = """
update ingestd.rollup set reason = $2, state = case when $4 then 'waiting' else state end,
    since = case when reason is distinct from $2 then now() else since end, retry_at = now() + $3
where id = $1 and (reason is distinct from $2 or $3 > interval '0' or ($4 and state <> 'waiting'))"""
READY = """
update ingestd.rollup set state = 'ready', reason = null, since = case when state = 'ready' then since else now() end,
    source_id = $2, columns = $3, stored = $4, "view" = $5, exposed = $6,
    -- Those of `where` are known from the view only, which follows a column through its names.
    reads = (
        select jsonb_object_agg(a.attname, a.attnum) from ingestd.source s join pg_attribute a on a.attrelid = s.relid
        where s.id = $2 and a.attnum > 0 and not a.attisdropped and ($3::jsonb ? a.attname or a.attnum in (
            select d.refobjsubid from pg_rewrite w join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
            where w.ev_class = $5::oid and d.refclassid = 'pg_class'::regclass and d.refobjid = s.relid)))
where id = $1"""
STRIP = """
update ingestd.rollup set "view" = null, exposed = 'none', source_id = null, columns = null, reads = null, built_at = null,
    reason = $2
where id = $1"""
REBUILD = """
with cleaned as (delete from ingestd.dirty where rollup_id = $1),
     reset as (update ingestd.rollup set built_at = null, "rows" = 0, buckets = 0 where id = $1)
insert into ingestd.dirty (rollup_id, lo, hi, prio) values ($1, '-infinity', 'infinity', 10)"""
# What the catalog says now of everything that is declared; joined by name, because a table may be dropped and made again.
STANDING = """
with recursive root as (
    select r.id, to_regclass(format('%I.%I', r.spec ->> 'schema', r.spec ->> 'table'))::oid as relid from ingestd.rollup r),
tree as (
    select distinct relid as root, relid as part from root where relid is not null
    union all
    select tree.root, i.inhrelid from tree join pg_inherits i on i.inhparent = tree.part and not i.inhdetachpending),
captured as (
    select s.id, bool_and((select count(*) = 4 from pg_trigger t
                           where t.tgrelid = tree.part and t.tgname like 'ingestd\\_capture\\_' || s.id || '\\_%'
                             and t.tgenabled <> 'D'))
        and array_agg(tree.part order by tree.part) = s.parts as complete
    from ingestd.source s join tree on tree.root = s.relid group by s.id)
select r.id, root.relid, r.retry_at <= now() as due,
    coalesce(c.complete and s.relid = root.relid, false) as captured,
    exists (select from pg_class where oid = r.stored) as stored,
    exists (select from pg_class where oid = r."view") as viewed,
    exists (select from ingestd.dirty d where d.rollup_id = r.id and d.prio > 0) as unbuilt,
    (select jsonb_object_agg(known.name, a.attname) from jsonb_each_text(r.reads) known(name, number)
     join pg_attribute a on a.attrelid = root.relid and a.attnum = known.number::int and a.attname <> known.name and not a.attisdropped
     where s.relid = root.relid) as renamed,
    (select format('%s.%s', n.nspname, t.relname) from pg_class t join pg_namespace n on n.oid = t.relnamespace
     where t.oid = s.relid and root.relid is null) as moved
from ingestd.rollup r join root using (id) left join ingestd.source s on s.id = r.source_id left join captured c on c.id = s.id"""
RELATION = """
select c.oid, c.relkind::text as kind from pg_class c where c.oid = to_regclass(format('%I.%I', $1::text, $2::text))"""
# A domain counts as the type it stands on.
ATTRIBUTES = """
select a.attname as name, coalesce(b.typname, t.typname)::text as type
from pg_attribute a join pg_type t on t.oid = a.atttypid
left join pg_type b on t.typtype = 'd' and b.oid = t.typbasetype
where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum"""
PARTS = """
with recursive tree as (
    select $1::oid as part union all
    select i.inhrelid from tree join pg_inherits i on i.inhparent = tree.part and not i.inhdetachpending)
select part, format('%I.%I', n.nspname, c.relname) as name,
    (select count(*) = 4 from pg_trigger t
     where t.tgrelid = part and t.tgname like 'ingestd\\_capture\\_' || $2::text || '\\_%' and t.tgenabled <> 'D') as captured
from tree join pg_class c on c.oid = part join pg_namespace n on n.oid = c.relnamespace"""
# What a table that is no partition any more is called, and whether it has the time column still.
GONE_PARTS = """
select format('%I.%I', n.nspname, c.relname) as name, exists (
    select from pg_attribute a where a.attrelid = c.oid and a.attname = $2 and not a.attisdropped) as timed
from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = any ($1::oid[])"""
SOURCE = "select id, grain, relid, parts from ingestd.source where schema_name = $1 and table_name = $2 and time_column = $3 and zone = $4"
INSERT_SOURCE = """
insert into ingestd.source (schema_name, table_name, time_column, zone, grain, relid) values ($1, $2, $3, $4, $5, $6) returning id"""
UPDATE_SOURCE = "update ingestd.source set grain = $2, relid = $3 where id = $1"
KEEP_PARTS = "update ingestd.source set parts = $2 where id = $1 and parts <> $2"
IDLE_SOURCES = """
select id from ingestd.source s where not exists (select from ingestd.rollup r where r.source_id = s.id and r.stage <> 'retired')"""
DELETE_SOURCE = """
with cleaned as (delete from ingestd.dirty where source_id = $1),
     parted as (update ingestd.rollup set source_id = null where source_id = $1)
delete from ingestd.source where id = $1"""
TIMEOUTS = "select set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)"
READ_ONLY = "select set_config('transaction_read_only', 'on', true)"
INDEXED = """
select exists (select from ingestd.source s join pg_index i on i.indrelid = s.relid and i.indisvalid and i.indpred is null
    join pg_attribute a on a.attrelid = s.relid and a.attnum = i.indkey[0] and a.attname = s.time_column where s.id = $1)"""
OID_OF = "select to_regclass(format('rollups.%I', $1::text))::oid"
ON_TABLE = """
select id from ingestd.rollup where stage <> 'retired' and state = 'ready'
    and to_regclass(format('%I.%I', spec ->> 'schema', spec ->> 'table')) = to_regclass($1) order by id"""


@dataclass(frozen=True, slots=True)
class Rollup:
    """A row of ingestd.rollup."""

    id: int
    name: str
    version: str
    stage: str
    spec: Spec
    flag: str
    max_staleness: timedelta
    source_id: int | None
    columns: Mapping[str, str] | None
    stored: int | None
    view: int | None
    exposed: str
    state: str
    reason: str | None
    built_at: datetime | None

    @property
    def table(self) -> str:
        """Name of the table that holds its buckets, in the schema rollups."""
        return f"{self.name}_stored_next" if self.stage == "successor" else f"{self.name}_stored"


def _rollup(row: asyncpg.Record) -> Rollup:
    fields = dict(row)
    return Rollup(**{**fields, "spec": Spec.from_json(fields["spec"])})


async def lock_definitions(conn: asyncpg.Connection) -> None:
    """Wait until nobody else changes definitions; to the end of the transaction."""
    await conn.execute(LOCK_DEFINITIONS)


async def lock_rollup(conn: asyncpg.Connection, rollup_id: int) -> None:
    """Wait until nobody refreshes the rollup; to the end of the transaction."""
    await conn.execute(LOCK_ROLLUP, str(rollup_id))


async def all_rollups(conn: asyncpg.Connection) -> list[Rollup]:
    """Everything declared, successors and retired ones included."""
    return [_rollup(row) for row in await conn.fetch(ALL)]


async def rollup_by_id(conn: asyncpg.Connection, rollup_id: int) -> Rollup | None:
    """One rollup, its row locked; None if it is gone."""
    row = await conn.fetchrow(BY_ID, rollup_id)
    return _rollup(row) if row else None


async def rollups_named(conn: asyncpg.Connection, name: str) -> list[Rollup]:
    """The serving version and its successor, as far as they exist."""
    return [_rollup(row) for row in await conn.fetch(BY_NAME, name)]


async def insert(conn: asyncpg.Connection, name: str, stage: str, spec: Spec, flag: str, max_staleness: timedelta) -> int:
    """Enter a rollup."""
    made: int = await conn.fetchval(INSERT, name, spec.version, stage, spec.as_json(), flag, max_staleness, spec.width, spec.zone)
    return made


async def respecify(conn: asyncpg.Connection, rollup_id: int, spec: Spec) -> None:
    """Give a rollup that serves nobody yet another spec."""
    await conn.execute(RESPECIFY, rollup_id, spec.version, spec.as_json(), spec.width, spec.zone)


async def adjust(conn: asyncpg.Connection, rollup_id: int, flag: str, max_staleness: timedelta) -> bool:
    """Set what may change without a new version; False if nothing did."""
    return str(await conn.execute(ADJUST, rollup_id, flag, max_staleness)) == "UPDATE 1"


async def standing(conn: asyncpg.Connection) -> dict[int, asyncpg.Record]:
    """What of each rollup really exists in the database now, by its id."""
    return {row["id"]: row for row in await conn.fetch(STANDING)}


async def wait(conn: asyncpg.Connection, rollup_id: int, reason: str, retry: timedelta, *, waiting: bool) -> None:
    """Store why a rollup cannot go on, and when to look again."""
    await conn.execute(WAIT, rollup_id, reason, retry, waiting)


async def ready(
    conn: asyncpg.Connection,
    rollup_id: int,
    source_id: int,
    columns: Mapping[str, str],
    stored: int,
    view: int | None,
    exposed: str,
) -> None:
    """Store what stands for a rollup."""
    await conn.execute(READY, rollup_id, source_id, dict(columns), stored, view, exposed)


async def retire(conn: asyncpg.Connection, rollup_id: int) -> None:
    """Mark a rollup as no longer declared; its buckets stay."""
    await conn.execute(RETIRE, rollup_id)


async def delete(conn: asyncpg.Connection, rollup_id: int) -> None:
    """Forget a rollup and its dirty rows."""
    await conn.execute(DELETE, rollup_id)


async def promote(conn: asyncpg.Connection, rollup_id: int) -> None:
    """Let a successor serve."""
    await conn.execute(PROMOTE, rollup_id)


async def strip(conn: asyncpg.Connection, rollup_id: int, reason: str | None = None) -> None:
    """Forget view, source and column types: what is made next starts afresh."""
    await conn.execute(STRIP, rollup_id, reason)


async def rebuild(conn: asyncpg.Connection, rollup_id: int) -> None:
    """Declare every bucket of a rollup to be computed for the first time."""
    await conn.execute(REBUILD, rollup_id)


async def relation(conn: asyncpg.Connection, schema: str, table: str) -> asyncpg.Record | None:
    """Oid and kind of a table; None if it does not exist."""
    return await conn.fetchrow(RELATION, schema, table)


async def parts(conn: asyncpg.Connection, relid: int, source_id: int) -> list[asyncpg.Record]:
    """A table and everything that inherits from it, with whether a source's triggers are on each."""
    rows: list[asyncpg.Record] = await conn.fetch(PARTS, relid, str(source_id))
    return rows


async def gone_parts(conn: asyncpg.Connection, oids: Collection[int], time: str) -> list[asyncpg.Record]:
    """Those of former partitions that are tables still, and whether they have the time column."""
    rows: list[asyncpg.Record] = await conn.fetch(GONE_PARTS, list(oids), time)
    return rows


async def keep_parts(conn: asyncpg.Connection, source_id: int, parts: Collection[int]) -> None:
    """Store which tables a captured table consists of."""
    await conn.execute(KEEP_PARTS, source_id, sorted(parts))


async def source(conn: asyncpg.Connection, schema: str, table: str, time: str, zone: str) -> asyncpg.Record | None:
    """A captured table."""
    return await conn.fetchrow(SOURCE, schema, table, time, zone)


async def insert_source(conn: asyncpg.Connection, schema: str, table: str, time: str, zone: str, grain: timedelta, relid: int) -> int:
    """Enter a captured table."""
    made: int = await conn.fetchval(INSERT_SOURCE, schema, table, time, zone, grain, relid)
    return made


async def update_source(conn: asyncpg.Connection, source_id: int, grain: timedelta, relid: int) -> None:
    """Store how a captured table is captured now."""
    await conn.execute(UPDATE_SOURCE, source_id, grain, relid)


async def idle_sources(conn: asyncpg.Connection) -> list[int]:
    """Captured tables that no rollup needs any more."""
    return [row["id"] for row in await conn.fetch(IDLE_SOURCES)]


async def delete_source(conn: asyncpg.Connection, source_id: int) -> None:
    """Forget a captured table and what its triggers logged."""
    await conn.execute(DELETE_SOURCE, source_id)


async def on_table(conn: asyncpg.Connection, table: str) -> list[int]:
    """Ids of the rollups that stand on a table, by its name as SQL reads it."""
    return [row["id"] for row in await conn.fetch(ON_TABLE, table)]


async def run_ddl(conn: asyncpg.Connection, statements: Iterable[str]) -> None:
    """Run statements that `sql.py` made."""
    for statement in statements:
        await conn.execute(statement)


async def set_timeouts(conn: asyncpg.Connection, *, lock: timedelta, statement: timedelta) -> None:
    """Bound what the rest of the transaction may wait and take."""
    await conn.execute(TIMEOUTS, str(int(lock.total_seconds() * 1000)), str(int(statement.total_seconds() * 1000)))


async def indexed(conn: asyncpg.Connection, source_id: int) -> bool:
    """Whether an index finds rows of a source by their time."""
    return bool(await conn.fetchval(INDEXED, source_id))


async def attributes(conn: asyncpg.Connection, relid: int) -> dict[str, str]:
    """Columns of a table with their base types, in order."""
    return {row["name"]: row["type"] for row in await conn.fetch(ATTRIBUTES, relid)}


async def oid_of(conn: asyncpg.Connection, name: str) -> int | None:
    """Oid of a table or view in the schema rollups."""
    found: int | None = await conn.fetchval(OID_OF, name)
    return found


class _Undo(Exception):
    """Leaves a savepoint that is not to be kept."""


async def probe(conn: asyncpg.Connection, statement: str) -> None:
    """Let Postgres check one SELECT, read only, within the caller's transaction and without a trace.

    Raises:
        asyncpg.PostgresError: what is wrong with it.
    """
    with suppress(_Undo):
        async with conn.transaction():
            await conn.execute(READ_ONLY)
            # fetch() sends one statement only: Postgres itself refuses a second one
            await conn.fetch(statement)
            # the savepoint's end takes the setting back
            raise _Undo
