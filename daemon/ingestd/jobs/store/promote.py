"""Unparking what may go on: parents whose children are final, keys whose head is free. Workflow steps are in `steps`.

What is freed moves up to now in its queue (due_at keeps the wanted time), or it would lie behind every node's cursor.

All statements here are idempotent and run in their own transaction after an ack has committed, and once a second besides.
"""

from __future__ import annotations

import asyncio

import asyncpg

from ingestd.jobs.model import PARKED_CHILDREN, PARKED_KEY

# An idle node asks once a second, whether or not anything waits.
ANYTHING_WAITS = """
select exists (select from ingestd.job where parked <> 0)
    or exists (select from ingestd.workflow_run where state in ('waiting', 'running', 'compensating'))"""

# A workflow's job waits for its run, whose compensations are not there yet when the last step ends.
CHILDREN = f"""
update ingestd.job p set parked = parked & ~{PARKED_CHILDREN}::smallint, run_at = greatest(run_at, now())
where parked & {PARKED_CHILDREN} <> 0
  and not exists (select from ingestd.job c where c.parent_id = p.id)
  and not exists (select from ingestd.workflow_run r where r.job_id = p.id and r.state in ('waiting', 'running', 'compensating'))
returning id, queue_id"""

LOCK_TRIES = 20
LOCK_RETRY_S = 0.005
KEYS_WAIT = f"select exists (select from ingestd.job where parked = {PARKED_KEY})"
# One promoter at a time frees keys, or two of them, looking at different moments, free two jobs of one key. Tried, not waited for:
# whoever holds it may have been stopped.
KEYS_LOCK = """
select pg_try_advisory_xact_lock(hashtextextended('ingestd:keys', 0)) as mine,
       set_config('idle_in_transaction_session_timeout', '5s', true)"""

# A job that waits for its next try does not hold up the ones behind it, unless its key is strict: it stands in line again.
REPARK = f"""
update ingestd.job o set parked = o.parked | {PARKED_KEY}::smallint
where o.key is not null and o.parked & {PARKED_KEY} = 0 and o.claim is null and not o.key_strict and o.run_at > now()
  and exists (select from ingestd.job w where w.parked = {PARKED_KEY} and w.key = o.key and w.run_at <= now())"""

# Key by key, however many jobs wait behind each: the index is skipped through. Whoever is unparked holds one of the key's places
# until it is gone; those that are free go to what is due, older first. A strict key has one place, in the order of ids alone, and
# none while it is held; with a strict job in line, or at it, so does its key for all.
KEYS = f"""
with recursive waiting(key) as (
    (select key from ingestd.job where parked = {PARKED_KEY} order by key limit 1)
    union all
    select (select j.key from ingestd.job j where j.parked = {PARKED_KEY} and j.key > w.key order by j.key limit 1)
    from waiting w where w.key is not null
), most as (
    select greatest(max(key_concurrency), 1) as n from ingestd.queue
), freed as materialized (
    select h.id from waiting w, lateral (
        select count(*) as n, coalesce(bool_or(o.key_strict), false) as strict
        from ingestd.job o where o.key = w.key and o.key is not null and o.parked & {PARKED_KEY} = 0
    ) taken, lateral (
        select c.id, row_number() over (order by c.id) + taken.n as place,
               case when taken.strict or bool_or(c.key_strict) over (order by c.id) then 1
                    else greatest(q.key_concurrency, 1) end as places
        from (
            (select j.id, j.queue_id, j.key_strict from ingestd.job j
             where j.parked = {PARKED_KEY} and j.key = w.key and (j.key_strict or j.run_at <= now())
             order by j.id limit (select n from most))
            union all
            -- Nothing is due: what comes next need not wait for another pass when it is.
            (select j.id, j.queue_id, j.key_strict from ingestd.job j
             where j.parked = {PARKED_KEY} and j.key = w.key and (
                 select d.id from ingestd.job d where d.parked = {PARKED_KEY} and d.key = w.key and (d.key_strict or d.run_at <= now())
                 order by d.id limit 1) is null
             order by j.run_at, j.id limit 1)
        ) c join ingestd.queue q on q.id = c.queue_id
    ) h
    where w.key is not null and h.place <= h.places and not exists (select from ingestd.key_hold k where k.key = w.key)
)
update ingestd.job j set parked = j.parked & ~{PARKED_KEY}::smallint, run_at = greatest(j.run_at, now())
where j.id = any (array(select id from freed)) and j.parked = {PARKED_KEY}
returning j.id, j.queue_id"""

NOTIFY = """
select pg_notify('ingestd_job', q::text) from unnest($1::integer[]) q
where exists (select from ingestd.node_idle i where q = any (i.queues))"""


async def anything_waits(conn: asyncpg.Connection) -> bool:
    """Whether any job is parked or any run is open."""
    waits: bool = await conn.fetchval(ANYTHING_WAITS)
    return waits


async def unpark_parents(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Free jobs whose children are all final."""
    rows: list[asyncpg.Record] = await conn.fetch(CHILDREN)
    return rows


async def unpark_keys(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Free the jobs whose turn of their key has come; call it in a transaction of its own, which holds the lock of all keys."""
    if not await conn.fetchval(KEYS_WAIT):
        return []
    for _ in range(LOCK_TRIES):
        if (await conn.fetchrow(KEYS_LOCK))["mine"]:
            break
        await asyncio.sleep(LOCK_RETRY_S)
    else:
        # Whoever has it so long is at it; the next pass comes within a second.
        return []
    await conn.execute(REPARK)
    rows: list[asyncpg.Record] = await conn.fetch(KEYS)
    return rows


async def notify(conn: asyncpg.Connection, queues: set[int]) -> None:
    """Wake the nodes that serve these queues, with the transaction's commit."""
    await conn.execute(NOTIFY, sorted(queues))
