"""What a role may do that `migrate --grant` has let in: enqueue through the SQL functions, and hear what came of it."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from ingestd.jobs.model import NewJob
from ingestd.jobs.store.jobs import rows_json

# By the catalogue, since whoever may not use the schema may not name its tables either; null where there are none.
MAY_INSERT = """
select has_table_privilege(c.oid, 'insert') from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'ingestd' and c.relname = 'job'"""
INSERT_EACH = "select id, existing, changed from ingestd.enqueue_each($1::text::jsonb)"
OUTCOMES = "select id, state, partial, result, error, reason from ingestd.outcomes($1::bigint[])"


async def only_granted(conn: asyncpg.Connection) -> bool:
    """Whether this connection's role may not write jobs itself."""
    return await conn.fetchval(MAY_INSERT) is False


async def insert_each(conn: asyncpg.Connection, jobs: Sequence[NewJob], args: Sequence[str]) -> list[tuple[int, bool, bool]]:
    """Insert jobs with any option.

    Args:
        args: the arguments of each as JSON.

    Returns:
        The id of each in order, whether its unique key was held so that this is the id of another, and whether that was changed.
    """
    return [tuple(row) for row in await conn.fetch(INSERT_EACH, rows_json(jobs, args, ours=False))]


async def outcomes(conn: asyncpg.Connection, job_ids: Sequence[int]) -> list[asyncpg.Record]:
    """As `jobs.ended`; the state is `hidden` where a job did not come from SQL."""
    rows: list[asyncpg.Record] = await conn.fetch(OUTCOMES, job_ids)
    return rows
