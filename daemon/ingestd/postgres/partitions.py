"""Partitions whose time has passed: found by their bounds, detached without blocking a writer, dropped.

A partition is marked before it is detached. Whoever dies between the two leaves a table that carries the mark and belongs to
nothing: the next pass finds and drops it. A table that nobody marked is nobody's business, whatever its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

MARK = "ingestd: its time has passed, it is being dropped"
LOCK_TIMEOUT_MS = 2000
TRIES = 3
CHUNK = 5000

# The upper bound stands in the partition's own definition; one without (MAXVALUE, DEFAULT) is never past.
FIND = r"""
select format('%I.%I', n.nspname, c.relname) as name, i.inhdetachpending and obj_description(c.oid, 'pg_class') = $2 as pending,
       pg_total_relation_size(c.oid) as bytes,
       substring(pg_get_expr(c.relpartbound, c.oid) from $x$FROM \('([^']+)'\)$x$)::timestamptz as lower,
       substring(pg_get_expr(c.relpartbound, c.oid) from $x$TO \('([^']+)'\)$x$)::timestamptz as upper
from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
where i.inhparent = $1::text::regclass and c.relkind = 'r'
order by c.relname"""
ORPHANS = """
select format('%I.%I', n.nspname, c.relname) as name, pg_total_relation_size(c.oid) as bytes
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'ingestd' and c.relkind = 'r' and not c.relispartition and obj_description(c.oid, 'pg_class') = $1
  and starts_with(c.relname, $2 || '_')
order by c.relname"""
PENDING = "select inhdetachpending from pg_inherits where inhrelid = $1::text::regclass"
SET_MARK = "comment on table {name} is '" + MARK + "'"
DETACH = "alter table {parent} detach partition {name} concurrently"
FINALIZE = "alter table {parent} detach partition {name} finalize"
DROP = "drop table {name}"
COUNT = "select count(*) from {name}"
COUNT_BEFORE = "select count(*) from {name} where {past}"
HOLDS = "select exists (select from {name} where {condition})"
DELETE_BEFORE = """
delete from only {name} where ctid = any (array(select ctid from only {name} where {past} limit $2))"""
WAIT = f"set lock_timeout = {LOCK_TIMEOUT_MS}"
WAIT_NO_MORE = "reset lock_timeout"


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition, or what is left of one.

    Args:
        name: quoted, with its schema.
        bytes: with its indexes and what is stored out of line.
        lower: its first moment; None: unbounded.
        upper: the first moment that is not its own any more; None: unbounded.
        attached: whether it is still part of its table.
        pending: we have begun to detach it and not come to the end.
    """

    name: str
    bytes: int
    lower: datetime | None = None
    upper: datetime | None = None
    attached: bool = True
    pending: bool = False


async def partitions(conn: asyncpg.Connection, parent: str) -> list[Partition]:
    """The leaves of a table partitioned by time, oldest name first, and what is left of detached ones."""
    found = [Partition(**row) for row in await conn.fetch(FIND, parent, MARK)]
    left = [Partition(row["name"], row["bytes"], attached=False) for row in await conn.fetch(ORPHANS, MARK, parent.rpartition(".")[2])]
    return left + found


def is_past(partition: Partition, before: datetime, now: datetime) -> bool:
    """Whether even its youngest row is older than `before`; what is half gone was judged so already.

    The one just before the present one stays: it would be made again for transactions that began in its time.
    """
    if not partition.attached or partition.pending:
        return True
    if partition.upper is None or partition.lower is None:
        return False
    return partition.upper <= before and 2 * partition.upper.timestamp() - partition.lower.timestamp() <= now.timestamp()


async def count(conn: asyncpg.Connection, partition: Partition) -> int:
    """Its rows, counted."""
    rows: int = await conn.fetchval(COUNT.format(name=partition.name))
    return rows


async def holds(conn: asyncpg.Connection, partition: Partition, condition: str) -> bool:
    """Whether any of its rows is such a one."""
    return bool(await conn.fetchval(HOLDS.format(name=partition.name, condition=condition)))


async def count_before(conn: asyncpg.Connection, partition: Partition, past: str, before: datetime) -> int:
    """Its rows that are past, by a condition on `before` as $1, counted."""
    rows: int = await conn.fetchval(COUNT_BEFORE.format(name=partition.name, past=past), before)
    return rows


async def delete_before(conn: asyncpg.Connection, partition: Partition, past: str, before: datetime) -> int:
    """Delete its rows that are past, by a condition on `before` as $1, a few thousand a transaction; returns how many."""
    gone = 0
    while True:
        tag: str = await conn.execute(DELETE_BEFORE.format(name=partition.name, past=past), before, CHUNK)
        gone += (deleted := int(tag.split()[-1]))
        if deleted < CHUNK:
            return gone


async def drop(conn: asyncpg.Connection, parent: str, partition: Partition) -> int | None:
    """Detach and drop a partition; a writer never waits for it.

    Detaching waits for whoever has written to the table and not committed yet, holding nothing that a writer needs. It gives
    up after a few seconds and the next pass goes on where it ended.

    Args:
        conn: not in a transaction; past any pooler.

    Returns:
        The rows that went with it, or None where somebody held it too long.
    """
    await conn.execute(WAIT)
    try:
        if partition.attached and not await _detach(conn, parent, partition):
            return None
        rows = await count(conn, partition)
        return rows if await _patiently(conn, DROP.format(name=partition.name)) else None
    finally:
        await conn.execute(WAIT_NO_MORE)


async def _detach(conn: asyncpg.Connection, parent: str, partition: Partition) -> bool:
    if not await _patiently(conn, SET_MARK.format(name=partition.name)):
        return False
    for _ in range(TRIES):
        # A detachment that was begun can only be finished, never begun again.
        statement = FINALIZE if await conn.fetchval(PENDING, partition.name) else DETACH
        try:
            await conn.execute(statement.format(parent=parent, name=partition.name))
        except asyncpg.LockNotAvailableError:
            continue
        except asyncpg.ObjectNotInPrerequisiteStateError:
            return False  # somebody else's detachment of a sibling is under way
        return True
    return False


async def _patiently(conn: asyncpg.Connection, statement: str) -> bool:
    for _ in range(TRIES):
        try:
            await conn.execute(statement)
        except asyncpg.LockNotAvailableError:
            continue
        return True
    return False
