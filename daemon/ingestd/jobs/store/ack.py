"""Ending an attempt: every statement carries the claim, so that a stale holder changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from ingestd.jobs.model import Job, State
from ingestd.jobs.store.partitions import NoPartition, make_partitions
from ingestd.postgres.codecs import dump_json, storable

ATTEMPTS_KEPT = 20
# What is raised, before anything is sent, where a result is no JSON.
NO_JSON = (ValueError, TypeError, RecursionError)

_MOVED = """id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at, created_at, claim, node, store, key, key_strict,
           unique_key, unique_until, args, timeout, hard_timeout, backoff, tags, notes, metadata, correlation_id, parent_id,
           triggered_by, workflow_run, step"""

# When it began, as the node told, but not before its claim nor so late that it could not have taken as long: the node's clock may
# be wrong, and the claim and now() are by the one that all go by.
_STARTED = "greatest(claimed_at, least(started_at, now() - duration_ms * interval '1 ms'))"
# One statement moves the job out of the hot table into history, tells its workflow step, holds its strict key and appends
# the statistics. What is not returned was not ours any more.
_REST = f"""
), kept as (
    insert into ingestd.history (keep, state, partial, reason, result, error, counts, rejects, started_at, duration_ms, attempts, {_MOVED})
    select case state when 'failed' then 'bad' else 'ok' end, state, partial, reason, result, error, counts, rejects,
           case when started_at is null then claimed_at else {_STARTED} end, duration_ms,
           case when entry is null then attempts
                else jsonb_path_query_array(attempts, '$[last - {ATTEMPTS_KEPT - 2} to last]') || entry end, {_MOVED}
    from gone
), steps as (
    update ingestd.workflow_step s
    set state = g.state, partial = g.partial, result = g.result, reason = g.reason, finished_at = now()
    from gone g where g.workflow_run is not null and s.run = g.workflow_run and s.step = g.step
), holds as (
    insert into ingestd.key_hold (key, job_id) select key, id from gone where key_strict and state = 'failed'
    on conflict (key) do nothing
), stats as (
    insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
    select date_trunc('minute', now()), kind, queue_id, state,
           least(23, ceil(ln(greatest(duration_ms, 1)::float8) / ln(2::float8)))::smallint as bucket, count(*), sum(duration_ms)
    from gone group by 2, 3, 4, 5
)
select id from gone"""

ACK = f"""
with r as materialized (
    select id, claim, state, partial, result::jsonb, error::jsonb, reason, counts::jsonb, started_at, duration_ms, entry::jsonb,
           rejects::jsonb
    from unnest($1::bigint[], $2::uuid[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::text[], $8::text[],
                $9::timestamptz[], $10::bigint[], $11::text[], $12::text[])
         as r(id, claim, state, partial, result, error, reason, counts, started_at, duration_ms, entry, rejects)
), gone as (
    delete from ingestd.job j using r where j.id = r.id and j.claim = r.claim
    returning j.*, r.state, r.partial, r.result, r.error, r.reason, r.counts, r.started_at, r.duration_ms, r.entry, r.rejects
{_REST}"""

# Most jobs end without a word. Their claims come as positions in a short list: a node holds few claims, each for many jobs.
ACK_PLAIN = f"""
with r as materialized (
    select id, ($5::uuid[])[hold] as claim, to_timestamp(started) as started_at, duration_ms
    from unnest($1::text::bigint[], $2::text::integer[], $3::text::float8[], $4::text::bigint[]) as r(id, hold, started, duration_ms)
), gone as (
    delete from ingestd.job j using r where j.id = r.id and j.claim = r.claim
    returning j.*, 'succeeded'::text as state, false as partial, null::jsonb as result, null::jsonb as error, null::text as reason,
              null::jsonb as counts, r.started_at, r.duration_ms, null::jsonb as entry, null::jsonb as rejects
{_REST.removesuffix("select id from gone")}
select case when count(*) <> cardinality($1::text::bigint[]) then coalesce(array_agg(id), '{{}}') end from gone"""

PUT_BACK = f"""
with r as materialized (
    select id, claim, delay, spent, parked, checkpoint::jsonb, entry::jsonb
    from unnest($1::bigint[], $2::uuid[], $3::interval[], $4::boolean[], $5::smallint[], $6::text[], $7::text[])
         as r(id, claim, delay, spent, parked, checkpoint, entry)
)
update ingestd.job j
set claim = null, node = null, claimed_at = null, run_at = now() + r.delay,
    due_at = case when r.spent then now() + r.delay else j.due_at end,
    attempt = case when r.spent then j.attempt else greatest(j.attempt - 1, 0) end,
    parked = r.parked, checkpoint = coalesce(r.checkpoint, j.checkpoint),
    attempts = case when r.entry is null then j.attempts
                    else jsonb_path_query_array(j.attempts, '$[last - {ATTEMPTS_KEPT - 2} to last]') || r.entry end
from r where j.id = r.id and j.claim = r.claim and j.cancel_asked_at is null
returning j.id"""

ASKED = """
select j.id from unnest($1::bigint[], $2::uuid[]) r(id, claim)
join ingestd.job j on j.id = r.id and j.claim = r.claim where j.cancel_asked_at is not null"""

CHECKPOINT = "update ingestd.job set checkpoint = $3 where id = $1 and claim = $2 returning id"

ALREADY = """
select h.id from unnest($1::bigint[], $2::uuid[]) r(id, claim) join ingestd.history h on h.id = r.id and h.claim = r.claim"""


@dataclass(slots=True)
class Result:
    """How a job ended for good; not frozen only because it is made so often.

    Args:
        state: a final state.
        partial: it succeeded, but not with everything.
        error: `{"class", "message", "traceback"}`.
        counts: `{"succeeded", "failed", "skipped"}`.
        attempt: this try's entry in the job's list of attempts.
        rejects: `[{"item", "reason"}]`, what the handler could not take.
    """

    job_id: int
    claim: UUID
    state: State
    partial: bool = False
    result: Any = None
    error: dict[str, Any] | None = None
    reason: str | None = None
    counts: dict[str, int] | None = None
    started_at: datetime | None = None
    duration_ms: int = 0
    attempt: dict[str, Any] | None = None
    rejects: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class PutBack:
    """A job that goes back into the queue.

    Args:
        delay: from now until it may run.
        spent: whether this try counts.
        parked: `PARKED_…` bits it waits behind.
    """

    job_id: int
    claim: UUID
    delay: timedelta
    spent: bool
    parked: int = 0
    checkpoint: Any = None
    attempt: dict[str, Any] | None = None


def without_payload(result: Result, error: Exception | str) -> Result:
    """The same end with the reason why what it came with is not there: work that is done is not done again only for that."""
    told = f"its result could not be stored: {error}"
    reason = f"{result.reason} ({told})" if result.reason else told
    return replace(result, result=None, error=None, counts=None, attempt=None, reason=reason)


async def ack_plain(conn: asyncpg.Connection, done: Sequence[tuple[Job, float, int]]) -> set[int] | None:
    """Move jobs that succeeded without a word to history, each only if its claim still holds.

    Args:
        done: job, when it started in seconds since 1970, and how long it took in milliseconds.

    Returns:
        None if all were acked, else the ids that were.
    """
    holds: dict[UUID, int] = {}
    arrays = (
        [job.id for job, _, _ in done],
        [holds.setdefault(job.claim, len(holds) + 1) for job, _, _ in done],
        [started for _, started, _ in done],
        [duration_ms for _, _, duration_ms in done],
    )
    # Arrays as text: the driver takes each element of a list through five calls, Postgres reads them in one go.
    texts = ["{" + ",".join(map(repr, array)) + "}" for array in arrays]
    try:
        acked = await conn.fetchval(ACK_PLAIN, *texts, list(holds))
    except asyncpg.CheckViolationError:
        await make_partitions(conn)
        acked = await conn.fetchval(ACK_PLAIN, *texts, list(holds))
    return None if acked is None else set(acked)


async def ack(conn: asyncpg.Connection, results: Sequence[Result]) -> set[int]:
    """Move finished jobs to history, each only if its claim still holds.

    Outside a transaction a missing history partition is made and the statement sent again.

    Returns:
        The ids that were acked; one that is missing was stale and nothing was written about it.

    Raises:
        NoPartition: a partition is missing, and the caller's transaction has to be rolled back before it can be made.
    """
    try:
        return await _ack(conn, results)
    except asyncpg.CheckViolationError as error:
        if conn.is_in_transaction():
            raise NoPartition(f"history has no partition for today: {error}") from error
        await make_partitions(conn)
        return await _ack(conn, results)


async def _ack(conn: asyncpg.Connection, results: Sequence[Result]) -> set[int]:
    rows = await conn.fetch(
        ACK,
        [r.job_id for r in results],
        [r.claim for r in results],
        [str(r.state) for r in results],
        [r.partial for r in results],
        [_json(r.result) for r in results],
        [_json(r.error) for r in results],
        [None if r.reason is None else storable(r.reason) for r in results],
        [_json(r.counts) for r in results],
        [r.started_at for r in results],
        [r.duration_ms for r in results],
        [_json(r.attempt) for r in results],
        [_json(r.rejects) for r in results],
    )
    return {row["id"] for row in rows}


async def put_back(conn: asyncpg.Connection, jobs: Sequence[PutBack]) -> set[int]:
    """Return jobs to the queue, each only if its claim still holds; returns the ids that were.

    One that somebody has asked to stop is not: it would begin once more. `asked_to_stop` tells.
    """
    rows = await conn.fetch(
        PUT_BACK,
        [j.job_id for j in jobs],
        [j.claim for j in jobs],
        [j.delay for j in jobs],
        [j.spent for j in jobs],
        [j.parked for j in jobs],
        [_json(j.checkpoint) for j in jobs],
        [_json(j.attempt) for j in jobs],
    )
    return {row["id"] for row in rows}


async def asked_to_stop(conn: asyncpg.Connection, holds: Sequence[tuple[int, UUID]]) -> set[int]:
    """Which of these (id, claim) are still held, and somebody has asked to cancel."""
    rows = await conn.fetch(ASKED, [job_id for job_id, _ in holds], [claim for _, claim in holds])
    return {row["id"] for row in rows}


async def already_acked(conn: asyncpg.Connection, holds: Sequence[tuple[int, UUID]]) -> set[int]:
    """Which of these (id, claim) stand in history: an ack whose answer was lost had succeeded."""
    rows = await conn.fetch(ALREADY, [job_id for job_id, _ in holds], [claim for _, claim in holds])
    return {row["id"] for row in rows}


async def store_checkpoint(conn: asyncpg.Connection, job_id: int, claim: UUID, value: Any) -> bool:
    """Keep a running job's checkpoint; False if the claim is stale."""
    return await conn.fetchval(CHECKPOINT, job_id, claim, value) is not None


def _json(value: Any) -> str | None:
    return None if value is None else dump_json(value)
