"""Taking jobs: one statement for all queues of a node, and the ways a claim is given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg
import orjson

from ingestd.jobs.model import Job, Slot
from ingestd.jobs.store import history

# What few jobs have comes in one column, null for most: each column costs the client a twentieth of a plain job.
TAKEN = """
j.id, j.kind, j.queue_id, nullif(j.args, '{}'), j.attempt, j.max_attempts, j.run_at, j.rank,
case when num_nonnulls(j.key, j.checkpoint, j.timeout, j.hard_timeout, j.backoff, j.correlation_id, j.parent_id,
                       j.workflow_run) > 0 or j.crashes > 0 or j.due_at <> j.run_at or j.created_at <> j.run_at
          or j.triggered_by <> 'api' or j.tags <> '{}'
     then row(j.crashes, j.due_at, j.created_at, j.key, j.checkpoint::text, j.timeout, j.hard_timeout, j.backoff::text, j.tags,
              j.correlation_id, j.parent_id, j.triggered_by, j.workflow_run, j.step,
              case when j.metadata ? 'schedule' then j.metadata::text end) end"""
# ANY of an array, not a join: the planner guesses too many rows for a join and reads the whole table.
TAKE = f"""
update ingestd.job j set claim = $1, node = $2, claimed_at = now(), attempt = j.attempt + 1,
    unique_key = case j.unique_until when 'start' then null else j.unique_key end
where j.id = any (array(select id from c))
returning {TAKEN}"""

# The CTE is a fence: without MATERIALIZED the planner may run the locking scan more than once and take more than LIMIT.
# One arm a rank, each begun behind its cursor; the cursor lags a second, for an enqueue may commit out of the order of run_at.
BEHIND_CURSOR = """
with c as materialized (
    select x.id from unnest($7::smallint[], $8::timestamptz[], $9::bigint[]) p(rank, run_at, id), lateral (
        select j.id from ingestd.job j
        where queue_id = $3 and rank = p.rank and claim is null and parked = 0 and crashes = 0 and j.run_at <= now()
          and (j.run_at, j.id) > (least(p.run_at, now() - interval '1 second'),
                                  case when p.run_at < now() - interval '1 second' then p.id else 0 end)
          and kind = any ($5::text[]) and (store is null or store = $6)
        order by j.run_at, j.id limit $4 for update skip locked
    ) x{guard} limit $4
)"""
# A queue that has been given a limit is left alone here at once, even by a node that has not heard of it yet.
CLAIM = BEHIND_CURSOR.format(guard=" where not (select limited from ingestd.queue where id = $3)") + TAKE
# For whoever holds the queue's lock and knows that there is room.
CLAIM_WITHIN_LIMIT = BEHIND_CURSOR.format(guard="") + TAKE

# From the very front, for all queues at once: what lies behind a cursor, and whatever no wake-up told of.
SWEEP = f"""
with c as materialized (
    select j.id from unnest($3::integer[], $4::integer[]) q(id, free) join ingestd.queue l on l.id = q.id and not l.limited, lateral (
        select id from ingestd.job
        where queue_id = q.id and claim is null and parked = 0 and crashes = 0 and run_at <= now()
          and kind = any ($5::text[]) and (store is null or store = $6)
        order by rank, run_at, id limit q.free for update skip locked
    ) j
)
{TAKE}"""

# A job whose process died while it ran is a suspect: taken alone, so that nobody else is blamed for what it does.
ONE_SUSPECT = """
with c as materialized (
    select id from ingestd.job
    where queue_id = any ({queues}) and claim is null and parked = 0 and crashes > 0 and run_at <= now()
      and kind = any ($4::text[]) and (store is null or store = $5)
    order by rank, run_at, id limit 1 for update skip locked
)"""
SUSPECT = ONE_SUSPECT.format(queues="array(select id from ingestd.queue where id = any ($3::integer[]) and not limited)") + TAKE
SUSPECT_WITHIN_LIMIT = ONE_SUSPECT.format(queues="$3::integer[]") + TAKE

# Which ranks wait in each queue: one index probe a rank.
RANKS = """
with recursive r(queue_id, rank) as (
    select q.id, (select min(rank) from ingestd.job where queue_id = q.id and claim is null and parked = 0)
    from unnest($1::integer[]) q(id)
    union all
    select r.queue_id, (select min(j.rank) from ingestd.job j
                        where j.queue_id = r.queue_id and j.claim is null and j.parked = 0 and j.rank > r.rank)
    from r where r.rank is not null
)
select queue_id, rank from r where rank is not null"""

# Seconds until the next open job of these queues is due, for the claimer's sleep.
NEXT_DUE = """
select extract(epoch from min(due.run_at) - now())::float8
from unnest($1::integer[]) q(id), lateral (
    select run_at from ingestd.job where queue_id = q.id and claim is null and parked = 0 and run_at > now()
      and kind = any ($2::text[]) and (store is null or store = $3)
    order by run_at limit 1
) due"""

HELD = "select id, claim, cancel_asked_at is not null as cancel from ingestd.job where node = $1 and claim is not null"

# run_at moves up to now, or the job would lie behind every cursor; due_at keeps the wanted time.
RELEASE_CLAIM = """
update ingestd.job set claim = null, node = null, claimed_at = null, attempt = greatest(attempt - 1, 0), run_at = greatest(run_at, now())
where node = $1 and claim = $2 and not id = any ($3::bigint[]) and cancel_asked_at is null returning id"""


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims, under which hold, and what it can run.

    Args:
        token: the claim; made by the node before it asks, so that a lost answer can be released.
        node: its UUID.
        kinds: what this process can run; others wait.
        store: whose local files this process can reach.
    """

    token: UUID
    node: UUID
    kinds: list[str]
    store: UUID


ANYTHING_TO_DO = """
select exists (select from ingestd.queue q join ingestd.job j on j.queue_id = q.id
               where q.name = any ($2::text[]) and q.paused_at is null and j.claim is null and j.parked = 0 and j.run_at <= now()
                 and j.kind = any ($3::text[]) and (j.store is null or j.store = $4)) as due,
       exists (select from ingestd.job where node = $1 and claim is not null) as held"""


async def claim(
    conn: asyncpg.Connection, who: Claimant, queue_id: int, queue: str, limit: int, bounds: tuple[list[int], list[datetime], list[int]]
) -> list[Job]:
    """Take up to `limit` due jobs of one queue without limits that lie behind its cursor.

    Args:
        bounds: ranks in the order to look at them, and the (run_at, id) each begins behind.
    """
    rows = await conn.fetch(CLAIM, who.token, who.node, queue_id, limit, who.kinds, who.store, *bounds)
    return [to_job(row, queue, who.token) for row in rows]


async def sweep(conn: asyncpg.Connection, who: Claimant, free: Mapping[int, int], names: Mapping[int, str]) -> list[Job]:
    """Take up to `free[queue_id]` due jobs of each queue without limits from the very front."""
    rows = await conn.fetch(SWEEP, who.token, who.node, list(free), list(free.values()), who.kinds, who.store)
    return [to_job(row, names[row["queue_id"]], who.token) for row in rows]


async def claim_suspect(conn: asyncpg.Connection, who: Claimant, names: Mapping[int, str]) -> list[Job]:
    """Take at most one job that was running when its process died, of queues without limits."""
    rows = await conn.fetch(SUSPECT, who.token, who.node, list(names), who.kinds, who.store)
    return [to_job(row, names[row["queue_id"]], who.token) for row in rows]


async def ranks(conn: asyncpg.Connection, queues: Sequence[int]) -> list[tuple[int, int]]:
    """(queue_id, rank) of all that waits there."""
    return [(row["queue_id"], row["rank"]) for row in await conn.fetch(RANKS, list(queues))]


def to_job(row: asyncpg.Record, queue: str, claim: UUID) -> Job:
    """A claimed row as the job that is to run."""
    # By position, in the order of RETURNING: this runs for every job.
    job_id, kind, _, args, attempt, max_attempts, run_at, rank, more = row
    if more is None:
        job = Job(job_id, kind, queue, args or {}, attempt, max_attempts, 0, run_at, run_at, run_at, claim, -rank)
        job.correlation_id = f"job-{job_id}"
        return job
    crashes, due_at, created_at, key, checkpoint, timeout, hard_timeout, backoff, *rest = more
    job = Job(
        job_id, kind, queue, args or {}, attempt, max_attempts, crashes, run_at, due_at, created_at, claim, -rank, key,
        None if checkpoint is None else orjson.loads(checkpoint), timeout, hard_timeout, None if backoff is None else orjson.loads(backoff),
    )  # fmt: skip
    job.tags, job.correlation_id, job.parent_id, job.triggered_by, job.workflow_run, job.step, slot = rest
    # Nobody gave it one: its own cause is itself, and what it enqueues is joined to it.
    job.correlation_id = job.correlation_id or f"job-{job_id}"
    job.slot = None if slot is None else Slot.read(orjson.loads(slot))
    return job


async def next_due_s(conn: asyncpg.Connection, queues: Sequence[int], kinds: Sequence[str], store: UUID) -> float | None:
    """Seconds until the next scheduled or retrying job of these queues; None if there is none."""
    seconds: float | None = await conn.fetchval(NEXT_DUE, list(queues), list(kinds), store)
    return seconds


async def anything_to_do(
    conn: asyncpg.Connection, node: UUID, queues: Sequence[str], kinds: Sequence[str], store: UUID
) -> tuple[bool, bool]:
    """Whether a node could take a job now, as far as its queues' limits allow, and whether it holds one."""
    row = await conn.fetchrow(ANYTHING_TO_DO, node, list(queues), list(kinds), store)
    return row["due"], row["held"]


async def held(conn: asyncpg.Connection, node: UUID) -> list[asyncpg.Record]:
    """What this node holds according to the database: id, claim, and whether somebody asked to cancel it."""
    rows: list[asyncpg.Record] = await conn.fetch(HELD, node)
    return rows


async def release_claim(conn: asyncpg.Connection, node: UUID, token: UUID, keep: Sequence[int] = ()) -> list[int]:
    """Give back what was taken under a claim whose answer never arrived; what was asked to stop since ends."""
    await history.end_asked(conn, node, "cancelled before it began", claim=token, keep=keep)
    return [row["id"] for row in await conn.fetch(RELEASE_CLAIM, node, token, list(keep))]
