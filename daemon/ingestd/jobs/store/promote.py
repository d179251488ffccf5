"""Unparking what may go on: children that are final, keys whose head is free, workflow steps whose parents are done.

What is freed moves up to now in its queue (due_at keeps the wanted time), or it would lie behind every node's cursor.

All statements here are idempotent and run in their own transaction after an ack has committed, and once a second besides:
two parents acked at once must not miss each other.
"""

from __future__ import annotations

import asyncpg

from ingestd.jobs.model import PARKED_CHILDREN, PARKED_DEPENDENCY, PARKED_KEY

CHILDREN = f"""
update ingestd.job p set parked = parked & ~{PARKED_CHILDREN}::smallint, run_at = greatest(run_at, now())
where parked & {PARKED_CHILDREN} <> 0
  and not exists (select from ingestd.job c where c.parent_id = p.id)
returning id, queue_id"""

# The head of a key is its lowest id. It is freed if no other job of the key is on its way: under a strict key any open
# unparked job blocks, a retrying one included, and so does a hold; otherwise only one that runs or could run now.
KEYS = f"""
with heads as (
    select distinct on (key) id, key from ingestd.job where parked & {PARKED_KEY} <> 0 order by key, id
)
update ingestd.job j set parked = j.parked & ~{PARKED_KEY}::smallint, run_at = greatest(j.run_at, now())
from heads h
where j.id = h.id and j.parked & {PARKED_KEY} <> 0
  and not exists (select from ingestd.key_hold k where k.key = h.key)
  and not exists (
      select from ingestd.job o where o.key = h.key and o.id <> h.id and o.parked & {PARKED_KEY} = 0
        and (o.key_strict or o.claim is not null or o.run_at <= now()))
returning j.id, j.queue_id"""

STEPS_READY = """
select s.run, s.step, s.job_id, s.on_failure, d.bad, d.names
from ingestd.workflow_run r join ingestd.workflow_step s on s.run = r.id
cross join lateral (
    select count(*) filter (where p.state not in ('succeeded', 'failed', 'cancelled', 'skipped')) as open,
           count(*) filter (where p.state <> 'succeeded' or (s.require = 'complete' and p.partial)) as bad,
           string_agg(p.step || ' ' || p.state || case when p.partial then ' (partial)' else '' end, ', ' order by p.position)
               filter (where p.state <> 'succeeded' or (s.require = 'complete' and p.partial)) as names
    from ingestd.workflow_step p where p.run = s.run and p.step = any (s.after)
) d
where r.state = 'running' and s.state = 'blocked' and d.open = 0
order by s.run, s.position"""

RELEASE_STEP = f"""
with s as (
    update ingestd.workflow_step set state = 'open' where run = $1 and step = $2 and state = 'blocked' returning job_id
)
update ingestd.job j set parked = parked & ~{PARKED_DEPENDENCY}::smallint, run_at = greatest(run_at, now())
from s where j.id = s.job_id returning j.id, j.queue_id"""

# For a step whose job is gone already, so that one lost row never stalls its run.
CLOSE_STEP = """
update ingestd.workflow_step set state = 'skipped', reason = $3, finished_at = now()
where run = $1 and step = $2 and state = 'blocked'"""

FINISH_RUNS = """
update ingestd.workflow_run r
set finished_at = now(), state = case when d.failed > 0 then 'failed' when d.cancelled > 0 then 'cancelled'
                                      when d.partial > 0 then 'partial' else 'succeeded' end
from (
    select run, count(*) filter (where state not in ('succeeded', 'failed', 'cancelled', 'skipped')) as open,
           count(*) filter (where state = 'failed') as failed,
           count(*) filter (where state in ('cancelled', 'skipped')) as cancelled,
           count(*) filter (where partial) as partial
    from ingestd.workflow_step where run in (select id from ingestd.workflow_run where state = 'running') group by run
) d
where r.id = d.run and r.state = 'running' and d.open = 0
returning r.id"""

NOTIFY = "select pg_notify('ingestd_job', q::text) from unnest($1::integer[]) q"


async def unpark_parents(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Free jobs whose children are all final."""
    rows: list[asyncpg.Record] = await conn.fetch(CHILDREN)
    return rows


async def unpark_keys(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Free the head of each key that nothing else of the key is ahead of."""
    rows: list[asyncpg.Record] = await conn.fetch(KEYS)
    return rows


async def ready_steps(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Blocked steps whose parents are all final, and how many of those were not good enough."""
    rows: list[asyncpg.Record] = await conn.fetch(STEPS_READY)
    return rows


async def release_step(conn: asyncpg.Connection, run: int, step: str) -> list[asyncpg.Record]:
    """Let a step's job run."""
    rows: list[asyncpg.Record] = await conn.fetch(RELEASE_STEP, run, step)
    return rows


async def close_step(conn: asyncpg.Connection, run: int, step: str, reason: str) -> None:
    """Mark a blocked step skipped if its job did not do so itself."""
    await conn.execute(CLOSE_STEP, run, step, reason)


async def finish_runs(conn: asyncpg.Connection) -> list[int]:
    """Close workflow runs whose steps are all final."""
    return [row["id"] for row in await conn.fetch(FINISH_RUNS)]


async def notify(conn: asyncpg.Connection, queues: set[int]) -> None:
    """Wake the nodes that serve these queues, with the transaction's commit."""
    await conn.execute(NOTIFY, sorted(queues))
