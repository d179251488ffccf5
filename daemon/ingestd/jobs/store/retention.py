"""What the queue forgets in time: finished jobs, runs of workflows, unique keys whose period is over, statistics."""

from __future__ import annotations

import asyncpg

from ingestd.facts import Cleared, Keep
from ingestd.jobs.store import statistics
from ingestd.jobs.store.partitions import BAD, OK
from ingestd.postgres.retention import Series, clear_rows, clear_series

JOBS = Series("finished jobs", OK, "finished_at")
FAILED_JOBS = Series("failed jobs", BAD, "finished_at")
# A run goes with the jobs it consisted of; its steps go with it.
RUN_IS_PAST = """finished_at < case state when 'failed' then $2::timestamptz else $1::timestamptz end
    and state not in ('waiting', 'running', 'compensating')"""
HOLD_IS_PAST = "expires_at < $1::timestamptz"
STATISTICS_ARE_PAST = "minute < $1::timestamptz"
RUNS_AT_ONCE = 500


async def clear(conn: asyncpg.Connection, keep: Keep, dry_run: bool) -> list[Cleared]:
    """Clear what is not kept, or with `dry_run` count it."""
    cleared = [
        await clear_series(conn, JOBS, keep.history, keep, dry_run),
        await clear_series(conn, FAILED_JOBS, keep.failed, keep, dry_run),
        await clear_rows(
            conn, "workflow runs", "ingestd.workflow_run", RUN_IS_PAST, keep.history, keep.failed, dry_run=dry_run, chunk=RUNS_AT_ONCE
        ),
        await clear_rows(conn, "expired unique keys", "ingestd.unique_hold", HOLD_IS_PAST, keep.now, dry_run=dry_run),
        await clear_rows(conn, "statistics", "ingestd.job_stat", STATISTICS_ARE_PAST, keep.statistics, dry_run=dry_run),
    ]
    if not dry_run:
        await statistics.compact(conn, keep.now - keep.statistics)
    return cleared
