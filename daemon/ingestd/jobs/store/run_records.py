"""Records of workflows: their runs."""

from __future__ import annotations

from collections.abc import Collection

import asyncpg

from ingestd.jobs.records import Counted, Run, RunFilter, Streak, Window
from ingestd.jobs.store import records

STATE = "case r.state when 'compensating' then 'running' else r.state end"
_WORDS = {
    "succeeded": "r.state = 'succeeded'",
    "partial": "r.state = 'partial'",
    "failed": "r.state = 'failed'",
    "cancelled": "r.state = 'cancelled'",
    "running": "r.state in ('running', 'compensating')",
    "waiting": "r.state = 'waiting'",
}
_THEIRS = records.of("workflow", "w.name", "id")
HISTORY = f"""
select r.id, {STATE} as state, r.created_at, r.finished_at, r.triggered_by, r.job_id, s.counts, s.failed, s.reason,
       (extract(epoch from coalesce(r.finished_at, clock_timestamp()) - r.created_at) * 1000)::bigint as duration_ms
from (select * from ingestd.workflow_run r where {{of}}{{where}} order by r.workflow desc, r.id desc limit $2) r
cross join lateral (
    select jsonb_object_agg(n.state, n.n) as counts, min(n.failed) as failed, min(n.reason) as reason
    from (select state, count(*) as n, (array_agg(step order by position) filter (where state = 'failed'))[1] as failed,
                 (array_agg(reason order by position) filter (where state = 'failed'))[1] as reason
          from ingestd.workflow_step where run = r.id group by state) n
) s
order by r.id desc"""
RUNS = """
select finished_at as at, state, 1 as n, (extract(epoch from finished_at - created_at) * 1000)::bigint as ms
from ingestd.workflow_run
where workflow = $1 and finished_at >= ($2::timestamptz[])[1] and finished_at < ($2::timestamptz[])[array_length($2::timestamptz[], 1)]"""
BY_DAY = records.by_day(RUNS)
SPREAD = records.spread(RUNS)
STREAKS = f"""
select w.name, good.finished_at as last_success_at, bad.finished_at as last_failure_at,
       (select count(*) from ingestd.workflow_run
        where {records.since("workflow", "w.name", "id", "good.id")} and state = 'failed') as failures
from unnest($1::text[]) w(name)
left join lateral (select id, finished_at from ingestd.workflow_run
                   where {_THEIRS} and state in ('succeeded', 'partial') order by workflow desc, id desc limit 1) good on true
left join lateral (select id, finished_at from ingestd.workflow_run
                   where {_THEIRS} and state = 'failed' order by workflow desc, id desc limit 1) bad on true"""
KNOWN = "select exists (select from ingestd.workflow_run where workflow = $1)"


async def history(conn: asyncpg.Connection, name: str, which: RunFilter, limit: int) -> list[Run]:
    """Runs of a workflow, newest first."""
    page = records.Page(name, limit)
    page.either(_WORDS, which)
    page.add("r.triggered_by = {}", which.triggered_by)
    mine = records.of("r.workflow", "$1", "r.id", page.below(which.before))
    return [_run(row) for row in await conn.fetch(HISTORY.format(of=mine, where=page), *page.values)]


def _run(row: asyncpg.Record) -> Run:
    started = None if row["state"] == "waiting" else row["created_at"]
    reason = row["failed"] and f"{row['failed']}: {row['reason'] or 'failed'}"
    return Run(
        id=str(row["id"]),
        position=row["id"],
        state=row["state"],
        due_at=row["created_at"],
        started_at=started,
        finished_at=row["finished_at"],
        duration_ms=None if started is None else row["duration_ms"],
        triggered_by=row["triggered_by"],
        job_id=row["job_id"],
        reason=reason,
        error={"class": "StepFailed", "message": reason} if reason else None,
        counts=row["counts"],
    )


async def counted(conn: asyncpg.Connection, name: str, within: Window) -> Counted:
    """Runs of a workflow that ended within the window."""
    return await records.count(conn, BY_DAY, SPREAD, name, within)


async def streaks(conn: asyncpg.Connection, names: Collection[str]) -> dict[str, Streak]:
    """How the runs of each workflow went lately."""
    return records.streaks(await conn.fetch(STREAKS, list(names)))


async def known(conn: asyncpg.Connection, name: str) -> bool:
    """Whether a workflow of that name ever ran, as far as is kept."""
    return bool(await conn.fetchval(KNOWN, name))
