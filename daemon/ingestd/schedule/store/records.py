"""Records of schedules: their slots. How a slot's job ended stands in its row."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from ingestd.jobs.records import Counted, Run, RunFilter, Streak, Window
from ingestd.jobs.store import records

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_OPEN = "(l.ended is null and l.state in ('fired', 'late'))"
_WORDS = {
    **{state: f"l.ended = '{state}'" for state in ("succeeded", "partial", "failed", "cancelled")},
    "skipped": "(l.ended = 'skipped' or l.state = 'skipped')",
    "missed": "l.state = 'missed'",
    "running": f"({_OPEN} and exists (select from ingestd.job j where j.id = l.job_id and j.claim is not null))",
    "waiting": f"(l.state = 'waiting' or {_OPEN} and exists (select from ingestd.job j where j.id = l.job_id and j.claim is null))",
}
# Until the watch has written how a job ended, its own row tells; its error is only kept there.
HISTORY = """
select l.due_at, l.state as slot_state, l.job_id, l.triggered_by, l.reason, l.first_due_at, l.slots, l.overdue,
       coalesce(l.ended, case when l.state in ('skipped', 'missed', 'waiting') then l.state end, o.state, 'cancelled') as state,
       coalesce(l.started_at, o.started_at) as started_at, coalesce(l.ended_at, o.ended_at) as finished_at,
       coalesce(l.duration_ms, o.duration_ms) as duration_ms,
       coalesce(e.reason, o.reason) as job_reason, coalesce(e.error, o.error) as error
from (select * from ingestd.slot l where l.schedule = $1{where} order by l.due_at desc limit $2) l
left join lateral (
    select case when j.claim is null then 'waiting' else 'running' end as state, j.claimed_at as started_at,
           null::timestamptz as ended_at, (extract(epoch from clock_timestamp() - j.claimed_at) * 1000)::bigint as duration_ms,
           null::text as reason, j.attempts -> -1 -> 'error' as error
    from ingestd.job j where l.ended is null and j.id = l.job_id
    union all
    select case when h.partial then 'partial' else h.state end, h.started_at, h.finished_at, h.duration_ms, h.reason, h.error
    from ingestd.history h where l.ended is null and h.id = l.job_id
    limit 1
) o on true
left join lateral (
    select h.reason, h.error from ingestd.history h where l.ended = 'failed' and h.keep = 'bad' and h.id = l.job_id limit 1
) e on true
order by l.due_at desc"""
SLOTS = """
select due_at as at, coalesce(ended, state) as state, slots as n, duration_ms as ms
from ingestd.slot
where schedule = $1 and due_at >= ($2::timestamptz[])[1] and due_at < ($2::timestamptz[])[array_length($2::timestamptz[], 1)]
  and (ended is not null or state in ('skipped', 'missed'))"""
BY_DAY = records.by_day(SLOTS)
SPREAD = records.spread(SLOTS)
STREAKS = """
select s.name, good.ended_at as last_success_at, bad.ended_at as last_failure_at,
       (select count(*) from ingestd.slot l
        where l.schedule = s.name and l.ended = 'failed' and l.due_at > coalesce(good.due_at, '-infinity')) as failures
from unnest($1::text[]) s(name)
left join lateral (select due_at, ended_at from ingestd.slot
                   where schedule = s.name and ended in ('succeeded', 'partial') order by due_at desc limit 1) good on true
left join lateral (select due_at, ended_at from ingestd.slot
                   where schedule = s.name and ended = 'failed' order by due_at desc limit 1) bad on true"""
STANDING = """
select timezone, enabled, problem, next_due_at, removed_at, paused_by, pause_reason, paused_until,
       paused_at is not null and (paused_until is null or paused_until > now()) as paused
from ingestd.schedule where name = $1"""
NEXT_OF_TARGET = """
select min(next_due_at) from ingestd.schedule
where target ->> 'type' = $1 and target ->> 'name' = $2 and enabled and removed_at is null and next_due_at is not null
  and (paused_at is null or paused_until <= next_due_at)"""


async def history(conn: asyncpg.Connection, name: str, which: RunFilter, limit: int) -> list[Run]:
    """Slots of a schedule, newest first."""
    page = records.Page(name, limit)
    page.either(_WORDS, which)
    page.add("l.triggered_by = {}", which.triggered_by)
    page.add("l.due_at < {}::timestamptz", None if which.before is None else _at(which.before))
    return [_run(row) for row in await conn.fetch(HISTORY.format(where=page), *page.values)]


def _at(position: int) -> datetime:
    return _EPOCH + timedelta(microseconds=min(position, _LATEST))


def position(due_at: datetime) -> int:
    """Where the slot of this time stands among the slots of its schedule.

    Raises:
        ValueError: the time has no offset.
    """
    if due_at.tzinfo is None:
        raise ValueError("a time without an offset")
    return (due_at - _EPOCH) // timedelta(microseconds=1)


def _run(row: asyncpg.Record) -> Run:
    due_at: datetime = row["due_at"]
    counts: dict[str, Any] = {"slots": row["slots"], "first_due_at": row["first_due_at"]} if row["slots"] > 1 else {}
    return Run(
        id=due_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        position=position(due_at),
        state=row["state"],
        due_at=due_at,
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        duration_ms=row["duration_ms"],
        triggered_by=row["triggered_by"],
        job_id=row["job_id"],
        subject=row["slot_state"] if row["slot_state"] == "late" else None,
        reason=row["reason"] or row["job_reason"],
        error=row["error"],
        counts=counts or None,
    )


async def counted(conn: asyncpg.Connection, name: str, within: Window) -> Counted:
    """Slots of a schedule that came due within the window and have ended, were skipped or missed."""
    return await records.count(conn, BY_DAY, SPREAD, name, within)


async def streaks(conn: asyncpg.Connection, names: Collection[str]) -> dict[str, Streak]:
    """How the slots of each schedule went lately."""
    return records.streaks(await conn.fetch(STREAKS, list(names)))


async def standing(conn: asyncpg.Connection, name: str) -> asyncpg.Record | None:
    """How a schedule stands now, one that was removed as well: `timezone, enabled, problem, next_due_at, removed_at, paused …`."""
    return await conn.fetchrow(STANDING, name)


async def next_of_target(conn: asyncpg.Connection, what: str, name: str) -> datetime | None:
    """When a schedule next starts this thing, if one does.

    Args:
        what: job, import or workflow.
    """
    moment: datetime | None = await conn.fetchval(NEXT_OF_TARGET, what, name)
    return moment
