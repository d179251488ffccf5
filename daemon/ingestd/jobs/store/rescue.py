"""Taking back what a dead node held."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg

QUARANTINE_AFTER = 5

# SKIP LOCKED: a row the dead node's backend still locks is left for the next look, when that backend is gone.
# The claim is guarded by the row lock itself: only rows the node still holds at this instant are touched.
RESCUE = """
with lost as materialized (
    select id from ingestd.job where node = $1 and claim is not null for update skip locked
)
update ingestd.job j
set claim = null, node = null, claimed_at = null, run_at = now(), attempt = greatest(j.attempt - 1, 0), crashes = j.crashes + 1,
    attempts = jsonb_path_query_array(j.attempts, '$[last - 18 to last]') || jsonb_build_object(
        'n', j.attempt, 'outcome', 'crashed', 'started_at', j.claimed_at, 'ended_at', now(), 'node', j.node,
        'error', jsonb_build_object('class', 'NodeDied', 'message', $2::text))
from lost where j.id = lost.id
returning j.id, j.queue_id, j.crashes"""

QUARANTINE = """
with gone as (
    delete from ingestd.job where id = any ($1::bigint[]) and claim is null returning *
), steps as (
    update ingestd.workflow_step s set state = 'failed', reason = $2, finished_at = now()
    from gone g where g.workflow_run is not null and s.run = g.workflow_run and s.step = g.step
), holds as (
    insert into ingestd.key_hold (key, job_id) select key, id from gone where key_strict on conflict (key) do nothing
)
insert into ingestd.history
    (keep, state, reason, error, started_at, duration_ms, id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at,
     created_at, claim, node, store, key, key_strict, unique_key, unique_until, args, attempts, timeout, hard_timeout, backoff,
     tags, notes, metadata, correlation_id, parent_id, triggered_by, workflow_run, step)
select 'bad', 'failed', $2, jsonb_build_object('class', 'Quarantined', 'message', $2), null, 0, id, kind, queue_id, rank, attempt,
       max_attempts, crashes, run_at, due_at, created_at, claim, node, store, key, key_strict, unique_key, unique_until, args, attempts,
       timeout, hard_timeout, backoff, tags, notes, metadata, correlation_id, parent_id, triggered_by, workflow_run, step
from gone returning id"""

# Backends of a process that died may still hold locks and run its last statement; they go first.
TERMINATE = """
select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and application_name like $1 || '%' and pid <> pg_backend_pid()"""


@dataclass(frozen=True, slots=True)
class Rescued:
    """What a rescue brought back: ids that are claimable again, and ids that crashed too often and were quarantined."""

    claimable: list[int]
    quarantined: list[int]


async def rescue(conn: asyncpg.Connection, node: UUID, why: str) -> Rescued:
    """Make a dead node's jobs claimable again; a job that took its process down too often fails instead.

    Args:
        node: the dead one.
        why: how its death was seen; kept with the attempt.
    """
    async with conn.transaction():
        rows = await conn.fetch(RESCUE, node, why)
        poison = [row["id"] for row in rows if row["crashes"] >= QUARANTINE_AFTER]
        if poison:
            reason = f"quarantined: its process died {QUARANTINE_AFTER} times while running it"
            await conn.fetch(QUARANTINE, poison, reason)
    return Rescued([row["id"] for row in rows if row["id"] not in poison], poison)


async def terminate_backends(conn: asyncpg.Connection, application_name: str) -> int:
    """End the database sessions a dead node left behind; returns how many."""
    ended: int = await conn.fetchval(TERMINATE, application_name)
    return ended
