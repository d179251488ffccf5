"""Whether something has succeeded lately: asked for many things at once, answered by what history keeps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import asyncpg

# The newest of a kind first, and the first that succeeded in time is the answer. Only partitions are read in which it can lie.
# The rows are compared as a whole so that the index of kinds is taken: ordered by the id alone, all kinds are read for a rare one.
KINDS = """
select a.place from unnest($1::text[], $2::timestamptz[]) with ordinality as a(kind, since, place)
cross join lateral (
    select from ingestd.history h
    where h.keep = 'ok' and (h.kind, h.id) >= (a.kind, 0::bigint) and (h.kind, h.id) <= (a.kind, 9223372036854775807)
      and h.state = 'succeeded' and h.finished_at > a.since
    order by h.kind desc, h.id desc limit 1
) found"""

# All jobs of a kind within the time are read, and once: for kinds of which there are few.
BY_ARGUMENT = """
select h.args ->> $2 as value, max(h.finished_at) as at from ingestd.history h
where h.keep = 'ok' and h.kind = $1 and h.state = 'succeeded' and h.finished_at > $4 and h.args ->> $2 = any ($3) group by 1"""

WORKFLOWS = """
select a.place from unnest($1::text[], $2::timestamptz[]) with ordinality as a(workflow, since, place)
where exists (
    select from ingestd.workflow_run r
    where r.workflow = a.workflow and r.finished_at > a.since and r.state in ('succeeded', 'partial')
)"""


async def kinds(conn: asyncpg.Connection, asked: Sequence[tuple[str, datetime]]) -> set[int]:
    """Positions of the kinds of which a job has succeeded, in whole or in part, later than the moment given."""
    rows = await conn.fetch(KINDS, [kind for kind, _ in asked], [since for _, since in asked])
    return {row["place"] - 1 for row in rows}


async def by_argument(conn: asyncpg.Connection, kind: str, argument: str, values: Collection[str], since: datetime) -> dict[str, datetime]:
    """When jobs of a kind last succeeded, in whole or in part, by the value of one of their arguments.

    Args:
        values: that are asked for.
        since: those that ended earlier are of no interest.
    """
    rows = await conn.fetch(BY_ARGUMENT, kind, argument, list(values), since)
    return {row["value"]: row["at"] for row in rows}


async def workflows(conn: asyncpg.Connection, asked: Sequence[tuple[str, datetime]]) -> set[int]:
    """Positions of the workflows of which a run has succeeded, in whole or in part, and ended later than the moment given."""
    rows = await conn.fetch(WORKFLOWS, [name for name, _ in asked], [since for _, since in asked])
    return {row["place"] - 1 for row in rows}
