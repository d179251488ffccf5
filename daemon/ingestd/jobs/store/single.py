"""One job that is nobody's part, in the shortest statement there is; and born in the hands of its own node, where that has a slot free."""

from __future__ import annotations

import asyncpg

from ingestd.jobs.checks import json_metadata
from ingestd.jobs.model import PARKED_KEY, Job, NewJob
from ingestd.jobs.store.claim import TAKEN, Claimant, to_job

_VALUES = """
    insert into ingestd.job as j (kind, queue_id, rank, max_attempts, run_at, due_at, key, key_strict, store, parked, args,
                                  tags, notes, metadata, correlation_id, parent_id, triggered_by, workflow_run, step{columns})
    select n.kind, q.id, coalesce($4::smallint, -k.priority, 0), coalesce($6::smallint, k.max_attempts, 4),
           coalesce($5::timestamptz, now()), coalesce($5, now()), $7::text, $8::boolean, $9::uuid, $10::smallint, $2::text::jsonb,
           $11::text[], $12::text, $13::text::jsonb, $14::text, $15::bigint, $16::text, $17::bigint, $18::text{values}
    from (select $1::text as kind) n left join ingestd.kind k on k.name = n.kind
         {join} ingestd.queue q on q.name = coalesce($3::text, k.queue, 'default')"""
# Told as many jobs are, and for the same reasons.
_TELL = f"""
case when parked in (0, {PARKED_KEY}) and run_at <= now()
          and exists (select from ingestd.node_idle i where made.queue_id = any (i.queues))
     then pg_notify('ingestd_job', case when parked = 0 then format('%s %s %s', queue_id, rank, extract(epoch from run_at)) else 'keys' end)
     end"""
# Nothing is inserted where there is no such queue: an error would end the transaction of a caller.
INSERT_ONE = f"""
with made as ({_VALUES.format(columns="", values="", join="join")}
    returning id, queue_id, rank, parked, run_at
)
select id, {_TELL} from made"""
# A queue that does not exist is a queue_id that is null, which the table refuses: this one is in nobody's transaction.
# Whether its queue may be claimed from is asked in the same statement: a pause or a limit may be news to the node. Where it may not,
# the job is one like any other.
INSERT_TAKEN = f"""
with made as ({
    _VALUES.format(
        columns=", claim, node, claimed_at, attempt",
        join="left join",
        values=", h.claim, case when h.claim is not null then $20::uuid end, case when h.claim is not null then now() end,"
        " case when h.claim is not null then 1 else 0 end",
    )
}, lateral (select case when q.id = $21 and not q.limited and q.paused_at is null then $19::uuid end as claim) h
    returning {TAKEN}, j.claim, j.parked
)
select made.*, case when claim is null then {_TELL} end from made"""
_COLUMNS_OF_A_JOB = 9


async def insert_one(conn: asyncpg.Connection, job: NewJob, args: str) -> int | None:
    """Insert one plain job and wake who waits for it; returns its id, or None where its queue does not exist.

    Args:
        args: its arguments as JSON.
    """
    row = await conn.fetchrow(INSERT_ONE, *_values(job, args))
    return None if row is None else int(row[0])


async def insert_taken(
    conn: asyncpg.Connection, job: NewJob, args: str, who: Claimant, queue_id: int, queue: str
) -> tuple[int, Job | None]:
    """Insert one plain job that its own node runs at once.

    Args:
        who: the node, and the claim that the job is born with.
        queue_id: the queue of whose slots one is free.

    Returns:
        Its id, and the job as it was taken; None if its queue is paused, limited, or another one: then it is one like any other.

    Raises:
        asyncpg.NotNullViolationError: its queue does not exist.
    """
    row = await conn.fetchrow(INSERT_TAKEN, *_values(job, args), who.token, who.node, queue_id)
    taken = None if row["claim"] is None else to_job(tuple(row)[:_COLUMNS_OF_A_JOB], queue, who.token)
    return int(row[0]), taken


def _values(job: NewJob, args: str) -> tuple[object, ...]:
    return (
        job.kind, args, job.queue, None if job.priority is None else -job.priority, job.run_at, job.max_attempts, job.key, job.key_strict,
        job.store, job.parked | (PARKED_KEY if job.key else 0), job.tags, job.notes,
        json_metadata(job), job.correlation_id, job.parent_id, job.triggered_by,
        job.workflow_run, job.step,
    )  # fmt: skip
