"""Takes the declared rollups over into the database; `tend` then brings them about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

from ingestd.errors import ConfigurationError
from ingestd.rollups import sql
from ingestd.rollups.settings import RollupSettings, name_problems
from ingestd.rollups.store import registry
from ingestd.rollups.store.registry import Rollup


@dataclass(frozen=True, slots=True)
class Applied:
    """Names of the rollups that are new, differ, or are no longer declared."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


async def apply(conn: asyncpg.Connection, rollups: Mapping[str, RollupSettings]) -> Applied:
    """Make the declared rollups the ones there are; doing it again changes nothing.

    A changed spec is built beside the version that serves and takes its place when it is complete. One that is no longer
    declared loses its view and its triggers; the table of its buckets stays.

    Args:
        rollups: name -> settings.

    Raises:
        ConfigurationError: names that cannot stand together.
    """
    problems = name_problems(rollups)
    if problems:
        raise ConfigurationError(problems)
    added, changed, removed = [], [], []
    async with conn.transaction():
        await registry.lock_definitions(conn)
        known: dict[str, dict[str, Rollup]] = {}
        for rollup in await registry.all_rollups(conn):
            known.setdefault(rollup.name, {})[rollup.stage] = rollup
        for name, settings in rollups.items():
            stages = known.get(name, {})
            if "serving" not in stages:
                added.append(name)
                await _add(conn, name, settings, stages.get("retired"))
            elif await _update(conn, settings, stages["serving"], stages.get("successor")):
                changed.append(name)
        for name, stages in known.items():
            if name not in rollups and "serving" in stages:
                removed.append(name)
                await _remove(conn, stages["serving"], stages.get("successor"))
    return Applied(tuple(added), tuple(changed), tuple(removed))


async def _add(conn: asyncpg.Connection, name: str, settings: RollupSettings, retired: Rollup | None) -> None:
    if retired is None:
        await registry.insert(conn, name, "serving", settings.spec(), settings.flag, settings.max_staleness)
        return
    # Changes went unseen while it was not declared: its buckets are computed anew.
    await registry.respecify(conn, retired.id, settings.spec())
    await registry.adjust(conn, retired.id, settings.flag, settings.max_staleness)


async def _update(conn: asyncpg.Connection, settings: RollupSettings, serving: Rollup, successor: Rollup | None) -> bool:
    spec = settings.spec()
    changed = await registry.adjust(conn, serving.id, settings.flag, settings.max_staleness)
    if serving.version == spec.version:
        if successor is not None:
            await _drop_successor(conn, successor)
            changed = True
        return changed
    if serving.stored is None:
        await registry.respecify(conn, serving.id, spec)
        return True
    if successor is not None and successor.version == spec.version:
        return await registry.adjust(conn, successor.id, settings.flag, settings.max_staleness) or changed
    if successor is not None:
        await _drop_successor(conn, successor)
    await registry.insert(conn, serving.name, "successor", spec, settings.flag, settings.max_staleness)
    return True


async def _remove(conn: asyncpg.Connection, serving: Rollup, successor: Rollup | None) -> None:
    if successor is not None:
        await _drop_successor(conn, successor)
    await registry.retire(conn, serving.id)


async def _drop_successor(conn: asyncpg.Connection, successor: Rollup) -> None:
    if successor.stored is not None:
        await registry.lock_rollup(conn, successor.id)
        await registry.run_ddl(conn, [sql.drop_table(successor.table)])
    await registry.delete(conn, successor.id)
