"""Puts the triggers on a source table that log its changes, each in the transaction of the change."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import asyncpg

from ingestd.rollups import sql
from ingestd.rollups.buckets import format_bucket
from ingestd.rollups.sql import Shape
from ingestd.rollups.store import dirty, registry

COARSEST = timedelta(hours=1)  # no zone divides its days finer than its rollups are aligned afterwards


async def capture(conn: asyncpg.Connection, relid: int, shape: Shape) -> int:
    """Make sure that every change of the source is logged, in the caller's transaction.

    Creating a trigger waits for the table's open writers and holds off new ones until the transaction ends: what was written
    before is seen by every later snapshot, what is written after logs itself.

    Args:
        relid: the source table.

    Returns:
        Id of the source.
    """
    spec = shape.spec
    zone = "" if shape.types[spec.time] == "timestamptz" else spec.zone
    wanted = min(spec.width, COARSEST)
    known = await registry.source(conn, spec.schema, spec.table, spec.time, zone)
    if known is None:
        source_id = await registry.insert_source(conn, spec.schema, spec.table, spec.time, zone, wanted, relid)
        grain, replaced = wanted, True
    else:
        source_id, grain = known["id"], min(known["grain"], wanted)
        replaced = known["relid"] != relid
    before = set() if known is None or replaced else set(known["parts"])
    parts = await registry.parts(conn, relid, source_id)
    unseen = [part for part in parts if not part["captured"] or part["part"] not in before]
    if unseen or known is None or replaced or grain != known["grain"]:
        await registry.run_ddl(conn, sql.capture_functions(source_id, shape.moment, f"interval '{format_bucket(grain)}'"))
        await registry.update_source(conn, source_id, grain, relid)
    now = {part["part"] for part in parts}
    await _let_go(conn, source_id, shape, before - now)
    for part in unseen:
        await registry.run_ddl(conn, sql.capture_triggers(source_id, part["name"]))
        if part["part"] == relid:
            # Unseen until now, or made anew, or somebody dropped our triggers: nothing is known about it.
            await dirty.mark_source(conn, source_id)
        else:
            await registry.run_ddl(conn, [sql.mark_part(source_id, shape.moment, part["name"])])
    await registry.keep_parts(conn, source_id, now)
    return source_id


async def _let_go(conn: asyncpg.Connection, source_id: int, shape: Shape, oids: set[int]) -> None:
    """Log what left with former partitions: no trigger fires where one is detached or dropped."""
    found = await registry.gone_parts(conn, oids, shape.spec.time)
    if len(found) < len(oids) or not all(part["timed"] for part in found):
        # Nobody can tell any more which rows those were.
        await dirty.mark_source(conn, source_id)
    for part in found:
        if part["timed"]:
            await registry.run_ddl(conn, [sql.mark_part(source_id, shape.moment, part["name"])])
        # Left there, its triggers log what concerns nobody. That is no reason to wait for whoever reads the table just now.
        with suppress(asyncpg.LockNotAvailableError):
            async with conn.transaction():
                await registry.run_ddl(conn, sql.release_part(source_id, part["name"]))


async def release_idle(conn: asyncpg.Connection) -> None:
    """Take the triggers from tables that no rollup needs any more."""
    for source_id in await registry.idle_sources(conn):
        async with conn.transaction():
            await registry.lock_definitions(conn)
            if source_id not in await registry.idle_sources(conn):
                continue
            await registry.set_timeouts(conn, lock=timedelta(seconds=1), statement=timedelta(seconds=30))
            await registry.run_ddl(conn, sql.uncapture(source_id))
            await registry.delete_source(conn, source_id)
