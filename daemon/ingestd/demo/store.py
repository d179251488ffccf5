"""How many rows the demo's tables hold."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

EXISTS = "select to_regclass($1) is not null"
COUNT = "select count(*) from {table}"


async def count_rows(conn: asyncpg.Connection, tables: Sequence[str]) -> dict[str, int]:
    """Rows by table, of those that are there.

    Args:
        tables: `schema.table`, as the configuration has checked them.
    """
    found = {}
    for table in tables:
        quoted = ".".join(f'"{part}"' for part in table.split("."))
        if await conn.fetchval(EXISTS, quoted):
            found[table] = await conn.fetchval(COUNT.format(table=quoted))
    return found
