"""What users read: the view of a rollup, exact at every snapshot, or its table as it stands."""

from __future__ import annotations

import asyncpg

from ingestd.errors import Conflict
from ingestd.rollups import sql
from ingestd.rollups.sql import Shape
from ingestd.rollups.store import registry
from ingestd.rollups.store.registry import Rollup

EXPOSURE = {"on": "live", "off": "live", "shadow": "none", "frozen": "stored"}


def wanted_exposure(rollup: Rollup) -> str:
    """What the view of a rollup shows: `live`, `stored`, or `none` for no view."""
    return EXPOSURE[rollup.flag] if rollup.stage == "serving" else "none"


async def expose(conn: asyncpg.Connection, rollup: Rollup, shape: Shape, source_id: int, exposure: str) -> int | None:
    """Make, remake or drop the view of a rollup in the caller's transaction.

    Args:
        exposure: see `wanted_exposure`.

    Returns:
        Oid of the view, if there is one.

    Raises:
        Conflict: other views depend on it, or its name is taken.
    """
    standing = await registry.oid_of(conn, rollup.name)
    if standing is not None and standing != rollup.view:
        raise Conflict(f"rollups.{rollup.name} exists and is not ours: rename or drop it, or rename the rollup")
    if exposure == "none":
        if standing is not None:
            await hide(conn, rollup)
        return None
    if exposure == "live":
        indexed = await registry.indexed(conn, source_id)
        statement = sql.live_view(shape, rollup.name, rollup.table, rollup.id, source_id, indexed=indexed)
    else:
        statement = sql.stored_view(shape, rollup.name, rollup.table)
    try:
        # CREATE OR REPLACE keeps grants and the views on top, but only while the columns stay as they were.
        async with conn.transaction():
            await registry.run_ddl(conn, [statement])
    except asyncpg.InvalidTableDefinitionError:
        await hide(conn, rollup)
        await registry.run_ddl(conn, [statement])
    return await registry.oid_of(conn, rollup.name)


async def hide(conn: asyncpg.Connection, rollup: Rollup) -> None:
    """Drop the view of a rollup.

    Raises:
        Conflict: other views depend on it.
    """
    try:
        async with conn.transaction():
            await registry.run_ddl(conn, [sql.drop_view(rollup.name)])
    except asyncpg.DependentObjectsStillExistError as error:
        others = (error.detail or "").splitlines()
        raise Conflict(
            f"rollups.{rollup.name} must be dropped or change its columns, but others depend on it: {'; '.join(others[:3])}"
        ) from None
