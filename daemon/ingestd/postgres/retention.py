"""Forgetting what is too old: whole partitions where there are any, a few thousand rows a transaction elsewhere.

Counting and clearing ask the same question, so that what a dry run says is what the real one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from ingestd.facts import Cleared, Keep
from ingestd.postgres import partitions

CHUNK = 5000
COUNT = "select count(*) from {table} where {past}"
# A row that somebody changes meanwhile has another ctid then, and stays.
DELETE = "delete from {table} where ctid = any (array(select ctid from {table} where {past} limit {chunk}))"


@dataclass(frozen=True, slots=True)
class Series:
    """A table partitioned by time.

    Args:
        what: it is, in words.
        parent: its name with its schema.
        column: its time.
        stays: a condition on rows that stay however old they are, and their partition with them.
    """

    what: str
    parent: str
    column: str
    stays: str = "false"


async def clear_series(conn: asyncpg.Connection, series: Series, before: datetime, keep: Keep, dry_run: bool) -> Cleared:
    """Drop partitions whose youngest row is too old, or only count what would go.

    Args:
        conn: in no transaction, past any pooler.
        before: the edge; with `keep.exactly` the old rows of the partition that it lies in are deleted as well.
    """
    rows = freed = 0
    gone: list[str] = []
    postponed: list[str] = []
    # one that is half detached first: its siblings cannot be detached before it
    for partition in sorted(await partitions.partitions(conn, series.parent), key=lambda one: not one.pending):
        going = not partition.attached or partition.pending
        if not going and (not partitions.is_past(partition, before, keep.now) or await partitions.holds(conn, partition, series.stays)):
            partly = keep.exactly and (partition.lower is None or partition.lower < before)
            old = partitions.count_before if dry_run else partitions.delete_before
            rows += await old(conn, partition, f"{series.column} < $1 and not ({series.stays})", before) if partly else 0
            continue
        dropped = await (partitions.count(conn, partition) if dry_run else partitions.drop(conn, series.parent, partition))
        name = partition.name.rpartition(".")[2]
        if dropped is None:
            postponed.append(name)
            continue
        rows, freed = rows + dropped, freed + partition.bytes
        gone.append(name)
    return Cleared(series.what, rows, freed, tuple(gone), tuple(postponed))


async def clear_rows(conn: asyncpg.Connection, what: str, table: str, past: str, *args: Any, dry_run: bool, chunk: int = CHUNK) -> Cleared:
    """Delete rows that are past, or only count them.

    Args:
        past: a condition on the table's rows, with `args` as $1, $2 …
    """
    if dry_run:
        return Cleared(what, await conn.fetchval(COUNT.format(table=table, past=past), *args))
    rows = 0
    while True:
        tag: str = await conn.execute(DELETE.format(table=table, past=past, chunk=chunk), *args)
        rows += (deleted := int(tag.split()[-1]))
        if deleted < chunk:
            return Cleared(what, rows)
