"""Why a job that nobody runs is not run."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from ingestd.jobs.model import PARKED_CHILDREN, PARKED_DEPENDENCY, PARKED_KEY
from ingestd.jobs.store import limits
from ingestd.settings import format_duration

# One row a job: what holds it, with the facts behind it. The conditions stand in the order in which they would have to be lifted.
WHY = f"""
with live as materialized (
    select kinds, queues, store from ingestd.node
    where state = 'running' and 'work' = any (duties) and heartbeat_at > now() - interval '1 minute'
)
select j.id, j.kind, j.queue_id, j.key, q.name as queue, q.paused_at is not null as paused, q.paused_by, q.limited,
       q.global_concurrency, q.rate_count, q.rate_period, j.crashes > 0 as suspect, j.store is not null as stored,
       j.parked & {PARKED_CHILDREN} <> 0 as awaits_children, j.parked & {PARKED_DEPENDENCY} <> 0 as awaits_steps,
       j.parked & {PARKED_KEY} <> 0 as awaits_key, j.run_at > now() as later,
       case when j.parked & {PARKED_CHILDREN} <> 0
            then (select count(*) from ingestd.job c where c.parent_id = j.id) end as children,
       case when j.parked & {PARKED_DEPENDENCY} <> 0
            then (select string_agg(p.step, ', ' order by p.position) from ingestd.workflow_step s
                  join ingestd.workflow_step p on p.run = s.run and p.step = any (s.after)
                  where s.run = j.workflow_run and s.step = j.step
                    and p.state not in ('succeeded', 'failed', 'cancelled', 'skipped')) end as steps,
       case when j.parked & {PARKED_DEPENDENCY} <> 0
            then (select min(o.id) from ingestd.workflow_run r join ingestd.workflow_run o on o.workflow = r.workflow
                  where r.id = j.workflow_run and r.state = 'waiting'
                    and (o.state in ('running', 'compensating') or (o.state = 'waiting' and o.id < r.id))) end as run_before,
       case when j.parked & {PARKED_KEY} <> 0 then (select h.job_id from ingestd.key_hold h where h.key = j.key) end as held_by,
       ahead.id as ahead, ahead.runs as ahead_runs,
       exists (select from live n where j.kind = any (n.kinds)) as kind_known,
       exists (select from live n where q.name = any (n.queues)) as queue_served,
       exists (select from live n where n.store = j.store) as store_there,
       exists (select from live n where j.kind = any (n.kinds) and q.name = any (n.queues)
               and (j.store is null or n.store = j.store)) as can_run
from ingestd.job j join ingestd.queue q on q.id = j.queue_id
left join lateral (
    -- Whoever has the key's place, or else stands before this one in its line.
    (select o.id, o.claim is not null as runs from ingestd.job o
     where o.key = j.key and o.key is not null and o.parked & {PARKED_KEY} = 0 limit 1)
    union all
    (select o.id, false from ingestd.job o where o.parked = {PARKED_KEY} and o.key = j.key and o.id < j.id order by o.id limit 1)
    limit 1
) ahead on j.parked & {PARKED_KEY} <> 0
where j.id = any ($1::bigint[]) and j.claim is null"""


async def waiting_reason(conn: asyncpg.Connection, job_ids: Sequence[int]) -> dict[int, str]:
    """Why these jobs do not run, in words for people.

    Returns:
        Job id -> reason; without those that run, have ended, or only wait for their time.
    """
    rows = await conn.fetch(WHY, list(job_ids))
    rooms = {
        queue: await limits.room_of(conn, queue) for queue in {row["queue_id"] for row in rows if row["limited"] and not row["paused"]}
    }
    reasons = {row["id"]: _parked(row) or (None if row["later"] else _available(row, rooms.get(row["queue_id"]))) for row in rows}
    return {job_id: reason for job_id, reason in reasons.items() if reason}


def _parked(row: asyncpg.Record) -> str | None:
    if row["awaits_children"]:
        return f"waits for its child jobs: {row['children']} left" if row["children"] else "waits for its run to end"
    if row["run_before"] is not None:
        return f"waits for run {row['run_before']} of its workflow to end"
    if row["awaits_steps"]:
        return f"waits for earlier steps: {row['steps']}" if row["steps"] else "waits for earlier steps"
    if not row["awaits_key"]:
        return None
    if row["held_by"] is not None:
        return f"held: job {row['held_by']} before it failed; retry or skip that one"
    if row["ahead"] is None:
        return f"waits for its turn of {row['key']}"
    return f"waits for its turn of {row['key']}: job {row['ahead']} {'runs' if row['ahead_runs'] else 'is ahead'}"


def _available(row: asyncpg.Record, room: limits.Room | None) -> str:
    if row["paused"]:
        return f"queue {row['queue']} is paused by {row['paused_by']}"
    if not row["can_run"]:
        return _nobody(row)
    if room is not None and room.running is not None and room.running <= 0:
        return f"queue {row['queue']} runs as many jobs as it may: {row['global_concurrency']}"
    if room is not None and room.wait_s > 0:
        rate = f"{row['rate_count']}/{format_duration(row['rate_period'])}"
        return f"queue {row['queue']} is at its rate of {rate}: the next one starts in {room.wait_s:.1f} s"
    if row["suspect"]:
        return "its process died while it ran: it is run alone, one such job after the other"
    return "waits for a free slot"


def _nobody(row: asyncpg.Record) -> str:
    if not row["kind_known"]:
        return f'no live node knows the kind "{row["kind"]}"'
    if not row["queue_served"]:
        return f"no live node serves the queue {row['queue']}"
    if row["stored"] and not row["store_there"]:
        return "no live node has its files: the one that received them does not run"
    return f'no live node that knows the kind "{row["kind"]}" serves the queue {row["queue"]}' + (
        " and has its files" if row["stored"] else ""
    )
