"""Many schedules at a glance: how each one stands, filtered, in pages; for people who look at thousands."""

from __future__ import annotations

from typing import Any

import asyncpg

# Slots to come have no rows: without the bound on due_at each of the months made ahead would be looked into for each schedule.
_LAST = "due_at < now() + interval '1 minute'"
_KNOWN = f"""
with known as (
    select s.name, s.rule, s.timezone, s.target, s.owner, s.enabled, s.next_due_at, s.problem, s.ends_at,
           p.held as paused, s.paused_by, s.paused_until, s.pause_reason, s.skip_at, s.skip_by, s.skip_reason, l.due_at as last_due_at,
           case when not s.enabled then 'disabled' when p.held then 'paused'
                when s.problem is not null or l.ended = 'failed' or l.state = 'missed' then 'trouble' else 'well' end as standing
    from ingestd.schedule s
    cross join lateral (select s.paused_at is not null and (s.paused_until is null or s.paused_until > now()) as held) p
    left join lateral (
        select due_at, state, ended from ingestd.slot where schedule = s.name and {_LAST} order by due_at desc limit 1
    ) l on true
    where s.removed_at is null and ($1::text is null or strpos(s.name, $1) > 0 or strpos(s.target ->> 'name', $1) > 0)
)"""
PAGE = f"""{_KNOWN}
select * from known where ($2::text is null or standing = $2) and ($3::text is null or name > $3) order by name limit $4"""
# What needs somebody comes first, then what runs next.
URGENT = f"""{_KNOWN}
select * from known order by standing <> 'trouble', standing = 'disabled', next_due_at nulls last, name limit $2"""
TOTAL = "select count(*) from ingestd.schedule where removed_at is null"
COUNTS = f"{_KNOWN} select standing, count(*) as n from known group by standing"


async def page(
    conn: asyncpg.Connection, find: str | None = None, standing: str | None = None, after: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """Schedules in service by name, each with its `standing`: trouble, well, paused or disabled.

    Args:
        find: only those with this in their own name or their target's.
        after: only names behind this one.
    """
    return [dict(row) for row in await conn.fetch(PAGE, find, standing, after, limit)]


async def urgent(conn: asyncpg.Connection, limit: int) -> list[dict[str, Any]]:
    """The schedules to look at first: those in trouble, then those that run next."""
    return [dict(row) for row in await conn.fetch(URGENT, None, limit)]


async def total(conn: asyncpg.Connection) -> int:
    """How many schedules are in service."""
    number: int = await conn.fetchval(TOTAL)
    return number


async def counts(conn: asyncpg.Connection, find: str | None = None) -> dict[str, int]:
    """How many schedules there are of each standing."""
    return {row["standing"]: row["n"] for row in await conn.fetch(COUNTS, find)}
