"""Taking back what a dead node held."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from ingestd.jobs.store import history

QUARANTINE_AFTER = 5

# SKIP LOCKED: a row the dead node's backend still locks is left for the next look, when that backend is gone.
# The claim is guarded by the row lock itself: only rows the node still holds at this instant are touched.
#
# Only a job that had started can have killed its process. Exact are the node's own notes ($3), where its machine is ours. Elsewhere
# there is its report, once a second: who is named in it had started, and who was claimed before it and is not named had not, as long
# as the report is no older than the node's last beats. Whoever was claimed later may have started.
RESCUE = """
with lost as materialized (
    select id from ingestd.job where node = $1 and claim is not null and cancel_asked_at is null for update skip locked
), report as (
    select p.at, p.started from ingestd.node_progress p join ingestd.node n on n.id = p.node
    where p.node = $1 and p.at > n.heartbeat_at - interval '3 seconds'
), judged as (
    select j.id, case when $3::bigint[] is not null then j.id = any ($3)
                      else coalesce((select j.id = any (r.started) or j.claimed_at > r.at from report r), true) end as crashed
    from lost join ingestd.job j on j.id = lost.id
)
update ingestd.job j
set claim = null, node = null, claimed_at = null, run_at = now(), attempt = greatest(j.attempt - 1, 0),
    crashes = j.crashes + judged.crashed::int,
    attempts = case when judged.crashed then jsonb_path_query_array(j.attempts, '$[last - 18 to last]') || jsonb_build_object(
        'n', j.attempt, 'outcome', 'crashed', 'started_at', j.claimed_at, 'ended_at', now(), 'node', j.node,
        'error', jsonb_build_object('class', 'NodeDied', 'message', $2::text)) else j.attempts end
from judged where j.id = judged.id
returning j.id, j.queue_id, judged.crashed, j.crashes"""

QUARANTINE = """
with gone as (
    delete from ingestd.job where id = any ($1::bigint[]) and claim is null returning *
), steps as (
    update ingestd.workflow_step s set state = 'failed', reason = $2, finished_at = now()
    from gone g where g.workflow_run is not null and s.run = g.workflow_run and s.step = g.step
), holds as (
    insert into ingestd.key_hold (key, job_id) select key, id from gone where key_strict on conflict (key) do nothing
), stats as (
    insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
    select date_trunc('minute', now()), kind, queue_id, 'failed', 0, count(*), 0 from gone group by kind, queue_id
)
insert into ingestd.history
    (keep, state, reason, error, started_at, duration_ms, id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at,
     created_at, claim, node, store, key, key_strict, unique_key, unique_until, args, attempts, timeout, hard_timeout, backoff,
     tags, notes, metadata, correlation_id, parent_id, triggered_by, workflow_run, step)
select 'bad', 'failed', $2, jsonb_build_object('class', 'Quarantined', 'message', $3::text), null, 0, id, kind, queue_id, rank, attempt,
       max_attempts, crashes, run_at, due_at, created_at, claim, node, store, key, key_strict, unique_key, unique_until, args, attempts,
       timeout, hard_timeout, backoff, tags, notes, metadata, correlation_id, parent_id, triggered_by, workflow_run, step
from gone returning id"""

# Backends of a process that died may still hold locks and run its last statement; they go first.
# Each is waited for, so that the rescue after it finds their rows free.
TERMINATE = """
select count(*) filter (where pg_terminate_backend(pid, 500)) from pg_stat_activity
where datname = current_database() and application_name like $1 || '%' and pid <> pg_backend_pid()"""


@dataclass(frozen=True, slots=True)
class Rescued:
    """What a rescue brought back: ids that are claimable again, and ids that crashed too often and were quarantined."""

    claimable: list[int]
    quarantined: list[int]


async def rescue(conn: asyncpg.Connection, node: UUID, why: str, started: Collection[int] | None = None) -> Rescued:
    """Make a dead node's jobs claimable again, but for those that were asked to stop, which end as cancelled.

    A job that took its process down too often fails instead.

    Args:
        node: the dead one.
        why: how its death was seen; kept with the attempt.
        started: the jobs that ran when it died, if that is known exactly; None: judge by its last report.
    """
    async with conn.transaction():
        await history.end_asked(conn, node, "cancelled: its node died before it had stopped")
        rows = await conn.fetch(RESCUE, node, why, None if started is None else list(started))
        poison = [row["id"] for row in rows if row["crashed"] and row["crashes"] >= QUARANTINE_AFTER]
        if poison:
            died = f"its process died {QUARANTINE_AFTER} times while running it; repair the cause, then retry it"
            await conn.fetch(QUARANTINE, poison, f"quarantined: {died}", died)
    return Rescued([row["id"] for row in rows if row["id"] not in poison], poison)


async def terminate_backends(conn: asyncpg.Connection, application_name: str) -> int:
    """End the database sessions a dead node left behind; returns how many."""
    ended: int = await conn.fetchval(TERMINATE, application_name)
    return ended
