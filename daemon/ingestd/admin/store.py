"""The few statements of the server's own."""

from __future__ import annotations

import asyncpg

LIMIT_TIME = "select set_config('statement_timeout', $1, true)"
# The newest ten thousand bound the work whatever the load table has grown to.
LOADED = """
select coalesce(sum(inserted + updated), 0)::bigint as "rows", count(*) filter (where status in ('succeeded', 'partial')) as loads,
       coalesce(sum(rejected), 0)::bigint as rejected
from (select inserted, updated, rejected, status, finished_at from ingestd.load order by id desc limit 10000) newest
where finished_at > now() - interval '24 hours'"""


async def limit_time(conn: asyncpg.Connection, milliseconds: int) -> None:
    """Let no statement of this transaction take longer."""
    await conn.execute(LIMIT_TIME, str(milliseconds))


async def loaded_lately(conn: asyncpg.Connection) -> asyncpg.Record:
    """What loads of the last 24 hours brought in: `rows` inserted or updated, `loads` that succeeded, records `rejected`."""
    return await conn.fetchrow(LOADED)
