"""Whether imports have succeeded lately."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg

LOADS = """
select a.place from unnest($1::text[], $2::timestamptz[]) with ordinality as a(import, since, place)
where exists (
    select from ingestd.load l
    where l.import = a.import and l.finished_at > a.since and l.status in ('succeeded', 'partial')
)"""

FAILED_LAST = """
select a.import from unnest($1::text[]) as a(import)
cross join lateral (
    select l.status from ingestd.load l where l.import = a.import and l.finished_at is not null
    order by l.finished_at desc, l.id desc limit 1
) last
where last.status = 'failed'"""


async def failed_last(conn: asyncpg.Connection, names: Sequence[str]) -> set[str]:
    """Those of these imports whose newest load has failed, and was neither repaired nor given up since."""
    return {row["import"] for row in await conn.fetch(FAILED_LAST, names)}


async def loads(conn: asyncpg.Connection, asked: Sequence[tuple[str, datetime]]) -> set[int]:
    """Positions of the imports that have had a load which succeeded, in whole or in part, and ended later than the moment given."""
    rows = await conn.fetch(LOADS, [name for name, _ in asked], [since for _, since in asked])
    return {row["place"] - 1 for row in rows}
