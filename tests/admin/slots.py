"""Schedules and slots as the scheduler and the watch leave them, put in place directly."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import asyncpg

from ingestd.schedule.declare import CompiledTarget, apply
from ingestd.schedule.settings import ScheduleSettings

PUT = """
insert into ingestd.slot (schedule, due_at, state, reason, job_id, triggered_by, fired_at, first_due_at, slots, finish_by, ended,
                          started_at, ended_at, duration_ms, overdue, slow_at)
select $1, $2::timestamptz, $3, $4, $5::bigint, $6, case when $5::bigint is not null then $2::timestamptz end, $7, $8,
       $2::timestamptz + interval '1 hour', $9, case when $9::text is not null then $2::timestamptz + interval '2 s' end,
       case when $9::text is not null then $2::timestamptz + interval '5 s' end, $10, $11, $12"""


async def declare(conn: asyncpg.Connection, **schedules: dict[str, Any]) -> None:
    """Declare schedules; each starts the job `sync_prices` unless it says otherwise."""
    written = {
        name: ScheduleSettings.model_validate(keys if _has_target(keys) else {"job": "sync_prices"} | keys)
        for name, keys in schedules.items()
    }
    await apply(conn, written, lambda target: CompiledTarget("sync_prices", target.args))


def _has_target(keys: dict[str, Any]) -> bool:
    return bool(keys.keys() & {"job", "import", "rollup", "workflow", "command"})


async def slot(
    conn: asyncpg.Connection,
    schedule: str,
    ago: timedelta,
    state: str = "fired",
    *,
    ended: str | None = None,
    job_id: int | None = None,
    reason: str | None = None,
    triggered_by: str = "schedule",
    slots: int = 1,
    duration_ms: int | None = None,
    overdue: str | None = None,
    slow: bool = False,
) -> datetime:
    """One slot, due so long ago; returns when."""
    now: datetime = await conn.fetchval("select now()")
    due_at = now.replace(microsecond=0) - ago
    await conn.execute("select ingestd.make_slot_partition($1)", due_at)
    if ended is not None:
        duration_ms = 3000 if duration_ms is None else duration_ms
    if state in ("fired", "late") and job_id is None:
        job_id = 4242
    first = due_at - timedelta(hours=slots) if slots > 1 else None
    slow_at = now if slow else None
    values = (schedule, due_at, state, reason, job_id, triggered_by, first, slots, ended, duration_ms, overdue, slow_at)
    await conn.execute(PUT, *values)
    return due_at
