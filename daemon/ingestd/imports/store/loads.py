"""The SQL of running a load: the shape of its table, its row, its rejects, what was loaded before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Coroutine, Iterable, Sequence
from typing import Any

import asyncpg

from ingestd.imports.rejects import Reject
from ingestd.imports.request import LoadOutcome, LoadRequest
from ingestd.imports.shape import PROVENANCE, Column, Table
from ingestd.imports.sql import qualified

# lock_timeout: whoever holds the table that long makes us come back later. The rest makes texts mean one thing only.
SETTINGS = """
set local datestyle = 'ISO, YMD';
set local timezone = 'UTC';
set local intervalstyle = 'postgres';
set local work_mem = '64MB';
set local lock_timeout = '60s';
set local statement_timeout = 0;
set constraints all immediate"""
LOCK_TARGET = "select pg_advisory_xact_lock(hashtextextended('ingestd:load:' || $1, 0))"
STATE = """
select status, reason, duplicate_of, created_table, duration_ms, error, read, inserted, updated, unchanged, rejected,
       superseded, deleted
from ingestd.load where id = $1"""
# What an earlier table of the same name held is not in the one that a load has made since.
_INTO_THIS_TABLE = """
  and l.finished_at >= coalesce((select made.created_at from ingestd.created_table made where made.name = l.target), '-infinity')"""
SAME_FILE_BEFORE = f"""
select l.id from ingestd.load l join ingestd.file f on f.id = l.file_id join ingestd.file mine on mine.id = $4
where l.id = (select id from ingestd.load where import = $1 and file_name = $2 and target = $3 and id <> $5
              and status in ('succeeded', 'partial') order by finished_at desc, id desc limit 1)
  and f.sha256 = mine.sha256 and f.size = mine.size{_INTO_THIS_TABLE}"""
SAME_CONTENT_BEFORE = f"""
select max(l.id) from ingestd.load l
where l.target = $1 and l.status in ('succeeded', 'partial') and l.id <> $3
  and l.file_id in (select f.id from ingestd.file f join ingestd.file mine on mine.id = $2
                    where f.sha256 = mine.sha256 and f.size = mine.size){_INTO_THIS_TABLE}"""
FINISH = """
update ingestd.load
set status = $2, reason = $3, duplicate_of = $4, read = $5, inserted = $6, updated = $7, unchanged = $8, rejected = $9,
    superseded = $10, deleted = $11, created_table = created_table or $12, duration_ms = $13::bigint, error = $14,
    started_at = clock_timestamp() - $13::bigint * interval '1 ms', finished_at = clock_timestamp()
where id = $1 and status = 'pending'
returning id"""
FORGET_REJECTS = "delete from ingestd.reject where load_id = $1"
RELATION = """
select c.oid, c.relkind::text as kind,
       exists (select from pg_trigger g where g.tgrelid in (select relid from pg_partition_tree(c.oid) union all select c.oid)
               and not g.tgisinternal and g.tgenabled <> 'D' and g.tgtype & 1 = 1) as triggers,
       (select count(*) from pg_attribute a where a.attrelid = c.oid and not a.attisdropped
        and a.attname = any($3) and a.atttypid = 'int8'::regtype) = 2
       and exists (select from ingestd.created_table where name = $1 || '.' || $2) as provenance
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2"""
COLUMNS = """
select a.attname as name, format_type(a.atttypid, a.atttypmod) as sql_type, a.atttypmod as modifier,
       case when t.typnamespace = 'pg_catalog'::regnamespace then t.typname else '' end as base,
       a.attnotnull as not_null, a.atthasdef and a.attgenerated = '' as has_default, a.attgenerated <> '' as generated,
       a.attidentity::text as identity, coalesce(l.collisdeterministic, true) and t.typname <> 'citext' as exact
from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_collation l on l.oid = a.attcollation
where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
order by a.attnum"""
UNIQUE_KEYS = """
select array(select a.attname::text from unnest(i.indkey[:i.indnkeyatts - 1]) k(attnum)
             join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum) as names
from pg_index i
where i.indrelid = $1 and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null and i.indimmediate"""
SCHEMA_EXISTS = "select exists (select from pg_namespace where nspname = $1)"
KNOWN_TYPE = "select to_regtype($1)::text"
REMEMBER_TABLE = """
insert into ingestd.created_table (name, import, columns) values ($1, $2, $3)
on conflict (name) do update set import = excluded.import, columns = excluded.columns, created_at = now()"""
MADE_TABLE = "update ingestd.load set created_table = $2 where id = $1"
FORGET_TABLE = "delete from ingestd.created_table where name = $1"
# What this transaction has done to a table so far. Only differences around one statement are used: what a rolled back
# savepoint did stays in the sums.
TALLY = """
select sum(pg_stat_get_xact_tuples_inserted(relid))::bigint as inserted, sum(pg_stat_get_xact_tuples_updated(relid))::bigint as updated
from (select relid from pg_partition_tree($1::oid::regclass) where isleaf
      union select $1::oid::regclass where not exists (select from pg_partition_tree($1::oid::regclass))) r"""
LOOK_EVERY_S = 1.0
TALLIES = "select current_setting('track_counts')::boolean"


async def begin(conn: asyncpg.Connection, target: str) -> None:
    """Prepare the load's transaction and wait for the turn of this load at its table."""
    await conn.execute(SETTINGS)
    await conn.execute(LOCK_TARGET, target)


async def finished(conn: asyncpg.Connection, load_id: int) -> LoadOutcome | None:
    """The outcome of a load that is final already; None if it is not, or not there."""
    row = await conn.fetchrow(STATE, load_id)
    if row is None or row["status"] == "pending":
        return None
    return LoadOutcome(**{key: value for key, value in row.items() if value is not None})


async def loaded_before(conn: asyncpg.Connection, request: LoadRequest) -> int | None:
    """The load that makes this one a duplicate, if there is one.

    For append any finished load of the same content into the table counts; otherwise only the latest finished load of the
    same file name: A, then a corrected B, then A again must end as A.
    """
    if request.mode == "append":
        found = await conn.fetchval(SAME_CONTENT_BEFORE, request.target, request.file_id, request.load_id)
    else:
        found = await conn.fetchval(
            SAME_FILE_BEFORE, request.import_name, request.file_name, request.target, request.file_id, request.load_id
        )
    return None if found is None else int(found)


async def finish(conn: asyncpg.Connection, load_id: int, outcome: LoadOutcome) -> bool:
    """Write the outcome into the load's row; False if it was final already."""
    written = await conn.fetchval(
        FINISH, load_id, outcome.status, outcome.reason, outcome.duplicate_of, outcome.read, outcome.inserted,
        outcome.updated, outcome.unchanged, outcome.rejected, outcome.superseded, outcome.deleted, outcome.created_table,
        outcome.duration_ms, outcome.error,
    )  # fmt: skip
    return written is not None


async def write_rejects(conn: asyncpg.Connection, load_id: int, rejects: Iterable[Reject]) -> None:
    """Keep the rejects of a load, in place of those of an earlier attempt."""
    await conn.execute(FORGET_REJECTS, load_id)
    await while_connected(
        conn,
        conn.copy_records_to_table(
            "reject",
            schema_name="ingestd",
            columns=["load_id", "record", "column", "code", "reason", "raw"],
            records=(reject.row(load_id) for reject in rejects),
        ),
    )


async def copy_in(conn: asyncpg.Connection, schema: str, table: str, columns: Sequence[str], source: AsyncIterable[bytes]) -> int:
    """Stream binary COPY data into a table; returns the number of rows. No time limit of its own."""
    tag = await while_connected(
        conn,
        conn.copy_to_table(table, schema_name=schema, columns=list(columns), source=source, format="binary", timeout=None),
    )
    return int(tag.split()[-1])


async def while_connected(conn: asyncpg.Connection, copying: Coroutine[Any, Any, str]) -> str:
    """Await a COPY, but not for ever: the driver waits for a full socket to drain even after its connection is lost."""
    task = asyncio.create_task(copying, name="copy")
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK_EVERY_S)
            if conn.is_closed() and not task.done():
                raise asyncpg.ConnectionDoesNotExistError("the connection was lost in the middle of a COPY")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=LOOK_EVERY_S)


async def read_table(conn: asyncpg.Connection, target: str) -> tuple[Table, str] | None:
    """The shape of a table and its kind in the catalog; None if there is no such relation."""
    schema, _, name = target.partition(".")
    found = await conn.fetchrow(RELATION, schema, name, list(PROVENANCE))
    if found is None:
        return None
    columns = tuple(
        Column(
            row["name"], row["sql_type"], row["base"], row["modifier"], row["not_null"],
            row["has_default"] or row["identity"] != "", row["generated"], row["identity"], row["exact"],
        )
        for row in await conn.fetch(COLUMNS, found["oid"])
    )  # fmt: skip
    keys = tuple(frozenset(row["names"]) for row in await conn.fetch(UNIQUE_KEYS, found["oid"]))
    table = Table(
        found["oid"], target, columns, found["kind"] == "p", found["triggers"], keys, found["provenance"]
    )  # fmt: skip
    return table, found["kind"]


async def schema_exists(conn: asyncpg.Connection, schema: str) -> bool:
    """Whether there is such a schema."""
    return bool(await conn.fetchval(SCHEMA_EXISTS, schema))


async def known_type(conn: asyncpg.Connection, sql_type: str) -> bool:
    """Whether Postgres knows a type by that name."""
    return await conn.fetchval(KNOWN_TYPE, sql_type) is not None


async def make_table(conn: asyncpg.Connection, statement: str) -> None:
    """Run a CREATE TABLE."""
    await conn.execute(statement)


async def remember_table(conn: asyncpg.Connection, load_id: int, target: str, import_name: str, columns: Sequence[tuple[str, str]]) -> None:
    """Note that a load created a table, and with which columns."""
    shape = [{"name": name, "type": sql_type} for name, sql_type in columns]
    await conn.execute(REMEMBER_TABLE, target, import_name, shape)
    await conn.execute(MADE_TABLE, load_id, True)


async def drop_if_empty(conn: asyncpg.Connection, load_id: int, target: str) -> bool:
    """Take back a table that a failed load created; False if somebody has put rows into it meanwhile."""
    if await conn.fetchval(f"select exists (select from {qualified(target)})"):
        return False
    await conn.execute(f"drop table {qualified(target)}")
    await conn.execute(FORGET_TABLE, target)
    await conn.execute(MADE_TABLE, load_id, False)
    return True


async def tally(conn: asyncpg.Connection, oid: int) -> tuple[int, int]:
    """Rows inserted into and updated in a table by this transaction, undone ones included."""
    row = await conn.fetchrow(TALLY, oid)
    return row["inserted"] or 0, row["updated"] or 0


async def tallies(conn: asyncpg.Connection) -> bool:
    """Whether the server counts tuples at all."""
    return bool(await conn.fetchval(TALLIES))


async def run(conn: asyncpg.Connection, statement: str, *args: Any) -> int:
    """Run a generated statement; the number of rows in its command tag, 0 if it has none."""
    tag = str(await conn.execute(statement, *args)) if args else str(await conn.execute(statement))
    last = tag.split()[-1] if tag else ""
    return int(last) if last.isdigit() else 0


async def fetch(conn: asyncpg.Connection, statement: str, *args: Any) -> list[Any]:
    """Run a generated query."""
    return list(await conn.fetch(statement, *args))


async def holds(conn: asyncpg.Connection, statement: str) -> bool:
    """Run a generated query that answers yes or no."""
    return bool(await conn.fetchval(statement))
