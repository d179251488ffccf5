"""Taking jobs of a queue that has a limit: how many all nodes run together, and how many start in a period.

A limited queue is claimed by one node at a time, under an advisory lock that is taken in a statement of its own: the statements
after it see whatever the holder before committed. Nothing is counted up and down, so nothing can leak: what runs is what is claimed,
and a rate is spent in the transaction that takes the jobs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from ingestd.jobs.model import Job
from ingestd.jobs.store.claim import CLAIM_WITHIN_LIMIT, SUSPECT_WITHIN_LIMIT, Claimant, to_job

# Tried, never waited for: whoever holds it may have been stopped, and this node's other queues must go on. A holder that was
# stopped in the middle loses its transaction after five seconds.
LOCK = """
select pg_try_advisory_xact_lock(hashtextextended('ingestd:queue:' || $1::integer, 0)) as mine,
       set_config('idle_in_transaction_session_timeout', '5s', true)"""

# What is claimed is found node by node: an index over all claims would be read with whatever other queues left in it.
# A moment of a clock that has been set back since counts as now.
ROOM = """
select q.global_concurrency, q.rate_count, coalesce(spent.n, 0)::integer as spent, spent.wait_s,
       case when q.global_concurrency > 0 then (
           select count(*) from ingestd.node n join ingestd.job j on j.node = n.id
           where j.queue_id = $1 and j.claim is not null)::integer else 0 end as live
from ingestd.queue q left join lateral (
    select sum(s.n) as n, extract(epoch from min(s.until) + q.rate_period - clock_timestamp())::float8 as wait_s
    from ingestd.queue_rate r, lateral (
        select least(e.at, clock_timestamp() + q.rate_period * 0.02) as until, e.n from unnest(r.at, r.taken) e(at, n)) s
    where r.queue_id = q.id and q.rate_count > 0 and s.until + q.rate_period > clock_timestamp()
) spent on true
where q.id = $1 and q.limited and q.paused_at is null"""

# Starts count from the end of the hundredth of the period after the one they fall in: never too early, however late a job
# starts after its claim, and a hundred entries at most.
SPEND = """
with q as (
    select rate_period as period, extract(epoch from rate_period)::float8 / 100 as step,
           extract(epoch from clock_timestamp())::float8 as moment
    from ingestd.queue where id = $1
), entries as (
    select to_timestamp((floor(moment / step) + 2) * step) as at, $2::integer as n from q
    union all
    select least(e.at, to_timestamp((floor(moment / step) + 2) * step)), e.n
    from q, ingestd.queue_rate r, unnest(r.at, r.taken) e(at, n)
    where r.queue_id = $1 and e.at + q.period > to_timestamp(moment)
), folded as (
    select at, sum(n)::integer as n from entries group by at
)
insert into ingestd.queue_rate (queue_id, at, taken)
select $1, array_agg(at order by at), array_agg(n order by at) from folded
on conflict (queue_id) do update set at = excluded.at, taken = excluded.taken"""


@dataclass(frozen=True, slots=True)
class Room:
    """How much of a limit is left.

    Args:
        running: how many jobs may be taken before all nodes together run too many; None: no such limit.
        starts: how many may be taken in this period; None: no such limit.
        wait_s: seconds until the rate lets through another one, if it lets none through now.
    """

    running: int | None = None
    starts: int | None = None
    wait_s: float = 0.0

    def least(self, free: int) -> int:
        """How many of the free slots may be filled."""
        return max(0, min([free, *(left for left in (self.running, self.starts) if left is not None)]))


@dataclass(frozen=True, slots=True)
class Taken:
    """What a claim within limits came to.

    Args:
        jobs: what was taken.
        room: what was left before, None if the queue is paused or has no limit any more.
        busy: another node was claiming here: nothing was looked at.
    """

    jobs: list[Job] = field(default_factory=list)
    room: Room | None = None
    busy: bool = False

    def found_less_than(self, wanted: int) -> bool:
        """Whether less was there than slots and limits would have let through."""
        return self.room is not None and len(self.jobs) < self.room.least(wanted)


async def claim_within_limit(
    conn: asyncpg.Connection, who: Claimant, queue_id: int, queue: str, free: int, bounds: tuple[list[int], list[datetime], list[int]]
) -> Taken:
    """Take up to `free` due jobs of one limited queue that lie behind its cursor, and no more than its limits leave.

    Args:
        bounds: ranks in the order to look at them, and the (run_at, id) each begins behind.
    """
    return await _take(conn, who, queue_id, queue, free, lambda room: (CLAIM_WITHIN_LIMIT, [queue_id, room, who.kinds, who.store, *bounds]))


async def claim_suspect_within_limit(conn: asyncpg.Connection, who: Claimant, queue_id: int, queue: str) -> Taken:
    """Take at most one job of a limited queue that was running when its process died."""
    return await _take(conn, who, queue_id, queue, 1, lambda _: (SUSPECT_WITHIN_LIMIT, [[queue_id], who.kinds, who.store]))


async def room_of(conn: asyncpg.Connection, queue_id: int) -> Room | None:
    """What a queue's limits leave now; None if it is paused or has none. Exact only for whoever holds its lock."""
    row = await conn.fetchrow(ROOM, queue_id)
    if row is None:
        return None
    running = row["global_concurrency"] - row["live"] if row["global_concurrency"] else None
    starts = row["rate_count"] - row["spent"] if row["rate_count"] else None
    return Room(running, starts, max(row["wait_s"] or 0.0, 0.0) if starts is not None and starts <= 0 else 0.0)


async def _take(
    conn: asyncpg.Connection, who: Claimant, queue_id: int, queue: str, free: int, statement: Callable[[int], tuple[str, list[Any]]]
) -> Taken:
    async with conn.transaction():
        if not (await conn.fetchrow(LOCK, queue_id))["mine"]:
            return Taken(busy=True)
        room = await room_of(conn, queue_id)
        allowed = room.least(free) if room else 0
        if room is None or not allowed:
            return Taken(room=room)
        sql, arguments = statement(allowed)
        jobs = [to_job(row, queue, who.token) for row in await conn.fetch(sql, who.token, who.node, *arguments)]
        if jobs and room.starts is not None:
            await conn.execute(SPEND, queue_id, len(jobs))
    return Taken(jobs, room)
