"""The table of a first load: its columns from the header, its types from every row, its DDL in a transaction of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import asyncpg

from ingestd.imports import mapping
from ingestd.imports.formats.csv import CsvFile
from ingestd.imports.header import Header
from ingestd.imports.infer import infer
from ingestd.imports.request import FileProblem, LoadRequest
from ingestd.imports.sql import create_table, split
from ingestd.imports.store import loads


class Made(Enum):
    """What became of the attempt to make a table."""

    NEW = "new"
    BY_ANOTHER = "another load was faster"
    NO_RECORDS = "the file holds no records to tell types by"


async def make_table(
    conn: asyncpg.Connection, request: LoadRequest, file: CsvFile, header: Header, seen: Callable[[int, int], None]
) -> Made:
    """Create the target of a load; short, so that the load that follows may be long.

    Args:
        seen: called from a thread with (offset reached in bytes, records seen) while types are inferred.

    Raises:
        FileProblem: the file or what is declared about it cannot make a table.
    """
    schema, _ = split(request.target)
    if not await loads.schema_exists(conn, schema):
        raise FileProblem(f'schema "{schema}" does not exist: create schema {schema}')
    names = mapping.new_columns(header, request)
    await _check_declared(conn, request)
    if set(names) <= set(request.columns):
        types = [request.columns[name] for name in names]
    else:
        found = await asyncio.to_thread(_infer, file, request, len(names), seen)
        if found is None:
            return Made.NO_RECORDS
        types = [request.columns.get(name, guess) for name, guess in zip(names, found, strict=True)]
    columns = list(zip(names, types, strict=True))
    async with conn.transaction():
        await loads.begin(conn, request.target)
        if await loads.read_table(conn, request.target) is not None:
            return Made.BY_ANOTHER  # whether this file fits what it made is seen next
        await loads.make_table(conn, create_table(request.target, columns, request.key))
        await loads.remember_table(conn, request.load_id, request.target, request.import_name, columns)
    return Made.NEW


async def _check_declared(conn: asyncpg.Connection, request: LoadRequest) -> None:
    for name, sql_type in request.columns.items():
        if not mapping.plausible_type(sql_type) or not await loads.known_type(conn, sql_type):
            raise FileProblem(f'columns.{name}: Postgres knows no type "{sql_type}"')


def _infer(file: CsvFile, request: LoadRequest, width: int, seen: Callable[[int, int], None]) -> list[str] | None:
    """The type of each column; None if the file has no record."""
    records = 0

    def cells() -> Iterator[list[Any]]:
        nonlocal records
        for part in file.slices():
            records += part.records
            seen(part.end, records)
            yield part.cells

    types = infer(cells(), width, request.null)
    return types if records else None
