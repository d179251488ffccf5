"""Records of imports: their loads."""

from __future__ import annotations

from collections.abc import Collection

import asyncpg

from ingestd.jobs.records import Counted, Run, RunFilter, Streak, Window
from ingestd.jobs.store import records

TOTALLED = ("read", "inserted", "updated", "unchanged", "rejected", "superseded", "bytes")
_CLAIMED = "exists (select from ingestd.job j where j.id = l.job_id and j.claim is not null)"
_WORDS = {
    "succeeded": "l.status = 'succeeded'",
    "partial": "l.status = 'partial'",
    "failed": "l.status = 'failed'",
    "skipped": "l.status = 'skipped'",
    "running": f"(l.status = 'pending' and {_CLAIMED})",
    "waiting": f"(l.status = 'pending' and not {_CLAIMED})",
}
_THEIRS = records.of("import", "i.name", "id")
HISTORY = """
select l.id, case when l.status <> 'pending' then l.status when j.claim is null then 'waiting' else 'running' end as state, l.created_at,
       coalesce(l.started_at, j.claimed_at) as started_at, l.finished_at,
       coalesce(l.duration_ms, (extract(epoch from clock_timestamp() - j.claimed_at) * 1000)::bigint) as duration_ms, l.triggered_by,
       l.job_id, l.file_name, l.reason, l.error, l.read, l.inserted, l.updated, l.unchanged, l.rejected, l.superseded, l.bytes
from (select * from ingestd.load l where {of}{where} order by l.import desc, l.id desc limit $2) l
left join ingestd.job j on l.status = 'pending' and j.id = l.job_id
order by l.id desc"""
_WITHIN = """l.import = $1 and l.finished_at >= ($2::timestamptz[])[1]
    and l.finished_at < ($2::timestamptz[])[array_length($2::timestamptz[], 1)] and l.status <> 'pending'"""
LOADS = f"select l.finished_at as at, l.status as state, 1 as n, l.duration_ms as ms from ingestd.load l where {_WITHIN}"
BY_DAY = records.by_day(LOADS)
SPREAD = records.spread(LOADS)
# Only what went into the table: a load that failed has left nothing there.
TOTALS = f"""
select {", ".join(f"coalesce(sum({name}), 0)::bigint as {name}" for name in TOTALLED)}
from ingestd.load l where {_WITHIN} and l.status in ('succeeded', 'partial')"""
STREAKS = f"""
select i.name, good.finished_at as last_success_at, bad.finished_at as last_failure_at,
       (select count(*) from ingestd.load where {records.since("import", "i.name", "id", "good.id")} and status = 'failed') as failures
from unnest($1::text[]) i(name)
left join lateral (select id, finished_at from ingestd.load
                   where {_THEIRS} and status in ('succeeded', 'partial') order by import desc, id desc limit 1) good on true
left join lateral (select id, finished_at from ingestd.load
                   where {_THEIRS} and status = 'failed' order by import desc, id desc limit 1) bad on true"""
KNOWN = "select exists (select from ingestd.load where import = $1)"


async def history(conn: asyncpg.Connection, name: str, which: RunFilter, limit: int) -> list[Run]:
    """Loads of an import, newest first."""
    page = records.Page(name, limit)
    page.either(_WORDS, which)
    page.add("l.triggered_by = {}", which.triggered_by)
    mine = records.of("l.import", "$1", "l.id", page.below(which.before))
    return [_run(row) for row in await conn.fetch(HISTORY.format(of=mine, where=page), *page.values)]


def _run(row: asyncpg.Record) -> Run:
    return Run(
        id=str(row["id"]),
        position=row["id"],
        state=row["state"],
        due_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        duration_ms=row["duration_ms"],
        triggered_by=row["triggered_by"],
        job_id=row["job_id"],
        subject=row["file_name"],
        reason=row["reason"],
        error=row["error"],
        counts={name: row[name] for name in TOTALLED},
    )


async def counted(conn: asyncpg.Connection, name: str, within: Window) -> Counted:
    """Loads of an import that ended within the window, and what they brought into the table."""
    totals = await conn.fetchrow(TOTALS, name, list(within.starts))
    return await records.count(conn, BY_DAY, SPREAD, name, within, dict(totals))


async def streaks(conn: asyncpg.Connection, names: Collection[str]) -> dict[str, Streak]:
    """How the loads of each import went lately."""
    return records.streaks(await conn.fetch(STREAKS, list(names)))


async def known(conn: asyncpg.Connection, name: str) -> bool:
    """Whether an import of that name ever loaded anything."""
    return bool(await conn.fetchval(KNOWN, name))
