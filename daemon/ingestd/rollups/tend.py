"""Brings the database to what is declared: a rollup waits for its table, is set up, exposed, succeeded, taken away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial

import asyncpg

from ingestd.errors import Conflict
from ingestd.postgres.outage import OUTAGE
from ingestd.rollups import sql
from ingestd.rollups.capture import capture, release_idle
from ingestd.rollups.live_view import expose, hide, wanted_exposure
from ingestd.rollups.spec import Spec
from ingestd.rollups.sql import Shape
from ingestd.rollups.store import registry
from ingestd.rollups.store.registry import Rollup
from ingestd.settings import did_you_mean

# Our DDL never queues behind a long writer: whoever waits behind it would wait as long.
LOCK_TIMEOUT = timedelta(seconds=1)
STATEMENT_TIMEOUT = timedelta(seconds=50)
AGAIN = timedelta(seconds=2)
TABLE_KINDS = ("r", "p")
TIME_TYPES = ("timestamptz", "timestamp", "date")


Step = Callable[[asyncpg.Connection, int], Awaitable[None]]


class _NotYet(Exception):
    """The rollup has to wait; the message says for what."""


async def tend(conn: asyncpg.Connection) -> int:
    """Compare what is declared with what stands, and set right what differs; safe on any number of nodes at once.

    A rollup that cannot be set up keeps its reason and does not hold up the others.

    Returns:
        How many rollups were changed.
    """
    standing = await registry.standing(conn)
    changed = 0
    for rollup in await registry.all_rollups(conn):
        found = standing.get(rollup.id)
        if found is None:
            continue
        if rollup.stage == "retired":
            if (rollup.source_id is not None or rollup.view is not None) and found["due"]:
                changed += await _attempt(conn, rollup, _dismantle)
        elif found["relid"] is None:
            reason = _moved(rollup, found["moved"]) if found["moved"] else _missing(rollup.spec)
            await registry.wait(conn, rollup.id, reason, timedelta(), waiting=True)
        elif rollup.state == "ready" and found["renamed"]:
            if found["due"]:
                changed += await _attempt(conn, rollup, partial(_suspend, renamed=found["renamed"]))
        elif not _stands(rollup, found):
            if found["due"]:
                changed += await _attempt(conn, rollup, partial(prepare, renamed=found["renamed"]), waiting=True)
        elif rollup.stage == "successor" and rollup.built_at is not None and not found["unbuilt"] and found["due"]:
            changed += await _attempt(conn, rollup, _succeed)
    # Where a writer is at a table just now, the next pass tries again.
    with suppress(asyncpg.LockNotAvailableError):
        await release_idle(conn)
    return changed


def _missing(spec: Spec) -> str:
    return f"table {spec.source} does not exist yet"


def _moved(rollup: Rollup, name: str) -> str:
    return f"table {rollup.spec.source} is called {name} now: write so in [rollups.{rollup.name}] and reload, or rename it back"


def _stands(rollup: Rollup, found: asyncpg.Record) -> bool:
    exposure = wanted_exposure(rollup)
    return (
        rollup.state == "ready"
        and rollup.columns is not None
        and found["captured"]
        and found["stored"]
        and rollup.exposed == exposure
        and (found["viewed"] or exposure == "none")
    )


async def _attempt(conn: asyncpg.Connection, rollup: Rollup, step: Step, *, waiting: bool = False) -> bool:
    try:
        async with conn.transaction():
            await registry.set_timeouts(conn, lock=LOCK_TIMEOUT, statement=STATEMENT_TIMEOUT)
            await registry.lock_definitions(conn)
            # Before its row: a refresh holds this lock and writes the row last.
            await registry.lock_rollup(conn, rollup.id)
            await step(conn, rollup.id)
        return True
    except OUTAGE:
        raise
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        reason, waiting = f"waiting for open transactions on {rollup.spec.source}", False
    except (_NotYet, Conflict) as error:
        reason = str(error)
    except asyncpg.PostgresError as error:
        reason = f"Postgres refuses it: {error}"
    await registry.wait(conn, rollup.id, reason, AGAIN, waiting=waiting)
    return False


async def _suspend(conn: asyncpg.Connection, rollup_id: int, renamed: Mapping[str, str]) -> None:
    """Stop refreshing a rollup of which a column was renamed; its view follows the column and stays exact."""
    rollup = await registry.rollup_by_id(conn, rollup_id)
    if rollup is None or rollup.stage == "retired" or rollup.source_id is None:
        return
    if rollup.spec.time in renamed:
        # The triggers read the time by its name, so that every write to the table fails until they are gone. What is
        # written from now on is unseen: the view counts everything.
        await registry.run_ddl(conn, sql.uncapture(rollup.source_id))
        await registry.rebuild(conn, rollup.id)
    await registry.wait(conn, rollup.id, _called_now(rollup, renamed), timedelta(), waiting=True)


def _called_now(rollup: Rollup, renamed: Mapping[str, str]) -> str:
    changes = " and ".join(f'column "{old}" of {rollup.spec.source} is called "{new}" now' for old, new in sorted(renamed.items()))
    return f"{changes}: write so in [rollups.{rollup.name}] and reload, or rename it back"


async def prepare(conn: asyncpg.Connection, rollup_id: int, renamed: Mapping[str, str] | None = None) -> None:
    """Set up triggers, table and view of a rollup in the caller's transaction, as far as they are not there.

    Args:
        renamed: columns that were called otherwise when it was set up last, old name -> new name.
    """
    rollup = await registry.rollup_by_id(conn, rollup_id)
    if rollup is None or rollup.stage == "retired":
        return
    relid, shape = await _shape(conn, rollup, renamed or {})
    source_id = await capture(conn, relid, shape)
    stored = await registry.oid_of(conn, rollup.table)
    afresh = stored is None or rollup.stored != stored or rollup.columns != shape.types or rollup.source_id != source_id
    if afresh:
        if stored is not None and stored != rollup.stored:
            raise Conflict(f"rollups.{rollup.table} exists and is not ours: rename or drop it, or rename the rollup")
        if rollup.view is not None and stored is not None:
            await hide(conn, rollup)
        await registry.run_ddl(conn, [sql.drop_table(rollup.table), *sql.stored_ddl(shape, rollup.table)])
        stored = await registry.oid_of(conn, rollup.table)
        await registry.rebuild(conn, rollup.id)
    elif rollup.state == "waiting" or (rollup.view is not None and await registry.oid_of(conn, rollup.name) != rollup.view):
        # Postgres takes the view away with a column it reads, and a column made anew holds values that no trigger saw.
        await registry.rebuild(conn, rollup.id)
    assert stored is not None
    exposure = wanted_exposure(rollup)
    # The view of a successor's name belongs to the version that serves.
    view = None if rollup.stage == "successor" else await expose(conn, rollup, shape, source_id, exposure)
    await registry.ready(conn, rollup.id, source_id, shape.types, stored, view, exposure)


async def _shape(conn: asyncpg.Connection, rollup: Rollup, renamed: Mapping[str, str]) -> tuple[int, Shape]:
    spec = rollup.spec
    relation = await registry.relation(conn, spec.schema, spec.table)
    if relation is None:
        raise _NotYet(_missing(spec))
    if relation["kind"] not in TABLE_KINDS:
        raise _NotYet(f"{spec.source} is not a table: a rollup follows changes by triggers, which need one")
    columns = await registry.attributes(conn, relation["oid"])
    if lost := {old: new for old, new in renamed.items() if old not in columns}:
        raise _NotYet(_called_now(rollup, lost))
    for column in spec.used_columns:
        if column not in columns:
            raise _NotYet(f'there is no column "{column}" in {spec.source} yet{did_you_mean(column, columns)}')
    if columns[spec.time] not in TIME_TYPES:
        raise _NotYet(f'time column "{spec.time}" of {spec.source} is {columns[spec.time]}; it must be timestamptz, timestamp or date')
    for measure in spec.measures:
        if measure.function == "avg" and measure.column is not None and not sql.averageable(columns[measure.column]):
            raise _NotYet(f'cannot average "{measure.column}" of {spec.source}: it is {columns[measure.column]}, not a number')
    shape = Shape(spec, {column: columns[column] for column in spec.used_columns})
    await registry.probe(conn, sql.probe(shape))
    return relation["oid"], shape


async def _succeed(conn: asyncpg.Connection, successor_id: int) -> None:
    """Let a built successor take the place of the version that serves, in one transaction."""
    successor = await registry.rollup_by_id(conn, successor_id)
    if successor is None or successor.stage != "successor" or successor.source_id is None or successor.columns is None:
        return
    versions = await registry.rollups_named(conn, successor.name)
    serving = next((version for version in versions if version.stage == "serving"), None)
    shape = Shape(successor.spec, successor.columns)
    exposure = wanted_exposure(serving) if serving else "none"
    view = None
    if serving is not None:
        await registry.lock_rollup(conn, serving.id)
        # The view moves first, so that nothing depends on the old table any more. It keeps to the new one by its oid.
        view = await expose(conn, replace(successor, view=serving.view), shape, successor.source_id, exposure)
        await registry.run_ddl(conn, [sql.drop_table(serving.table)])
        await registry.delete(conn, serving.id)
    await registry.run_ddl(conn, sql.rename_table(successor.table, f"{successor.name}_stored"))
    await registry.promote(conn, successor.id)
    stored = await registry.oid_of(conn, f"{successor.name}_stored")
    assert stored is not None
    await registry.ready(conn, successor.id, successor.source_id, successor.columns, stored, view, exposure)


async def _dismantle(conn: asyncpg.Connection, rollup_id: int) -> None:
    """Take away the view and the triggers of a rollup that is no longer declared; its buckets stay as they were."""
    rollup = await registry.rollup_by_id(conn, rollup_id)
    if rollup is None or rollup.stage != "retired":
        return
    if rollup.view is not None and await registry.oid_of(conn, rollup.name) == rollup.view:
        await hide(conn, rollup)
    await registry.strip(conn, rollup.id)


async def detach(conn: asyncpg.Connection, table: str) -> list[int]:
    """Drop the views on a table, in the caller's transaction, so that it can ALTER the type of a column.

    Args:
        table: the table's name as SQL reads it, quoted where needed.

    Returns:
        What to hand to `reattach` in the same transaction.

    Raises:
        Conflict: other views depend on them.
    """
    await registry.lock_definitions(conn)
    ids = await registry.on_table(conn, table)
    for rollup_id in ids:
        rollup = await registry.rollup_by_id(conn, rollup_id)
        if rollup is not None:
            if rollup.view is not None:
                await hide(conn, rollup)
            await registry.strip(conn, rollup.id, "its source table is being changed")
    return ids


async def reattach(conn: asyncpg.Connection, rollups: Sequence[int]) -> None:
    """Set up again, in the caller's transaction, what `detach` took away; every bucket is computed anew."""
    for rollup_id in rollups:
        await prepare(conn, rollup_id)
