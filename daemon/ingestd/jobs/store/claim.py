"""Taking jobs: one statement for all queues of a node, and the ways a claim is given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from ingestd.jobs.model import Job

# The CTE is a fence: without MATERIALIZED the planner may run the locking scan more than once and take more than LIMIT.
CLAIM = """
with c as materialized (
    select j.id from unnest($1::integer[], $2::integer[]) q(id, free), lateral (
        select id from ingestd.job
        where queue_id = q.id and claim is null and parked = 0 and run_at <= now()
          and kind = any ($5::text[]) and (store is null or store = $6)
        order by rank, run_at, id limit q.free for update skip locked
    ) j
)
update ingestd.job j set claim = $3, node = $4, claimed_at = now(), attempt = j.attempt + 1,
    unique_key = case j.unique_until when 'start' then null else j.unique_key end
from c where j.id = c.id
returning j.id, j.kind, j.queue_id, j.args, j.attempt, j.max_attempts, j.crashes, j.run_at, j.due_at, j.created_at, j.claim,
          j.rank, j.key, j.checkpoint, j.timeout, j.backoff, j.tags, j.correlation_id, j.parent_id, j.triggered_by,
          j.workflow_run, j.step"""

# Seconds until the next open job of these queues is due, for the claimer's sleep.
NEXT_DUE = """
select extract(epoch from min(due.run_at) - now())::float8
from unnest($1::integer[]) q(id), lateral (
    select run_at from ingestd.job where queue_id = q.id and claim is null and parked = 0 and run_at > now()
      and kind = any ($2::text[]) and (store is null or store = $3)
    order by run_at limit 1
) due"""

HELD = "select id, claim, cancel_asked_at is not null as cancel from ingestd.job where node = $1 and claim is not null"

RELEASE_CLAIM = """
update ingestd.job set claim = null, node = null, claimed_at = null, attempt = greatest(attempt - 1, 0)
where node = $1 and claim = $2 and not id = any ($3::bigint[]) returning id"""


async def claim(
    conn: asyncpg.Connection,
    free: Mapping[int, int],
    queue_names: Mapping[int, str],
    token: UUID,
    node: UUID,
    kinds: Sequence[str],
    store: UUID,
) -> list[Job]:
    """Take up to `free[queue_id]` due jobs of each queue, more urgent first, then older first.

    Args:
        token: the claim; made by the node before it asks, so that a lost answer can be released.
        kinds: what this process can run; others wait.
        store: whose local files this process can reach.
    """
    rows = await conn.fetch(CLAIM, list(free), list(free.values()), token, node, list(kinds), store)
    jobs = [_job(row, queue_names[row["queue_id"]]) for row in rows]
    return sorted(jobs, key=lambda job: (-job.priority, job.run_at, job.id))


def _job(row: asyncpg.Record, queue: str) -> Job:
    values: dict[str, Any] = dict(row)
    del values["queue_id"]
    values["priority"] = -values.pop("rank")
    values["tags"] = tuple(values["tags"])
    return Job(queue=queue, **values)


async def next_due_s(conn: asyncpg.Connection, queues: Sequence[int], kinds: Sequence[str], store: UUID) -> float | None:
    """Seconds until the next scheduled or retrying job of these queues; None if there is none."""
    seconds: float | None = await conn.fetchval(NEXT_DUE, list(queues), list(kinds), store)
    return seconds


async def held(conn: asyncpg.Connection, node: UUID) -> list[asyncpg.Record]:
    """What this node holds according to the database: id, claim, and whether somebody asked to cancel it."""
    rows: list[asyncpg.Record] = await conn.fetch(HELD, node)
    return rows


async def release_claim(conn: asyncpg.Connection, node: UUID, token: UUID, keep: Sequence[int] = ()) -> list[int]:
    """Give back what was taken under a claim whose answer never arrived."""
    return [row["id"] for row in await conn.fetch(RELEASE_CLAIM, node, token, list(keep))]
