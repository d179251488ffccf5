"""Records of kinds: their jobs. Numbers come from the deltas that acks append; history is read by its index, a page at a time."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import asyncpg

from ingestd.jobs.records import BAD, GOOD, Counted, DayCount, Run, RunFilter, Streak, Window, spread_of_powers
from ingestd.jobs.store import records

# What counting failures in a row may read of one kind: this number means that many or more.
MOST_FAILURES = 100_000

_OPEN_WORDS = {"running": "j.claim is not null", "waiting": "j.claim is null"}
_DONE_WORDS = {
    "succeeded": "h.keep = 'ok' and h.state = 'succeeded' and not h.partial",
    "partial": "h.keep = 'ok' and h.partial",
    "failed": "h.keep = 'bad'",
    "cancelled": "h.keep = 'ok' and h.state = 'cancelled'",
    "skipped": "h.keep = 'ok' and h.state = 'skipped'",
}
_COLUMNS = "id, state, due_at, started_at, finished_at, duration_ms, triggered_by, reason, error, counts, attempt"
_OPEN = """
select j.id, case when j.claim is null then 'waiting' else 'running' end as state, j.due_at, j.claimed_at as started_at,
       null::timestamptz as finished_at, (extract(epoch from clock_timestamp() - j.claimed_at) * 1000)::bigint as duration_ms,
       j.triggered_by, null::text as reason, j.attempts -> -1 -> 'error' as error, null::jsonb as counts, j.attempt
from {source} where j.kind = $1{where} order by j.id desc limit $2"""
_DONE = """
select h.id, case when h.partial then 'partial' else h.state end as state, h.due_at, h.started_at, h.finished_at, h.duration_ms,
       h.triggered_by, h.reason, h.error, h.counts, h.attempt
from ingestd.history h where h.kind = $1{where} order by h.id desc limit $2"""
# What runs is found by the index of claims, however many wait.
_CLAIMED = "(select * from ingestd.job where claim is not null offset 0) j"

COUNTED = """
select width_bucket(minute, $2::timestamptz[]) - 1 as day, outcome, bucket, sum(n)::bigint as n, sum(ms)::bigint as ms
from ingestd.job_stat
where kind = $1 and minute >= ($2::timestamptz[])[1] and minute < ($2::timestamptz[])[array_length($2::timestamptz[], 1)]
group by 1, 2, 3"""

_GOOD = "select id, finished_at from ingestd.history where keep = 'ok' and kind = k.name and state = 'succeeded' order by id desc limit 1"
_BAD = "select id, finished_at from ingestd.history where keep = 'bad' and kind = k.name order by id desc limit 1"
# A kind of which nothing failed is told by the few partitions of failures alone.
FAILING = f"""
select k.name, good.finished_at as last_success_at, bad.finished_at as last_failure_at, (select count(*) from (
           select from ingestd.history where keep = 'bad' and kind = k.name and id > coalesce(good.id, 0) limit {MOST_FAILURES}
       ) failed) as failures
from unnest($1::text[]) k(name) cross join lateral ({_BAD}) bad left join lateral ({_GOOD}) good on true"""
STREAKS = FAILING.replace("cross join lateral", "left join lateral").replace(") bad left", ") bad on true left")
KNOWN = """
select exists (select from ingestd.kind where name = $1) or exists (select from ingestd.history where kind = $1)
    or exists (select from ingestd.job where kind = $1)"""
QUEUE = """
select q.name, q.paused_at is not null as paused, q.paused_by from ingestd.kind k join ingestd.queue q on q.name = k.queue
where k.name = $1"""
LIVE = """
select distinct unnest(kinds) as name from ingestd.node where state in ('starting', 'running', 'draining') order by 1"""


async def history(conn: asyncpg.Connection, name: str, which: RunFilter, limit: int) -> list[Run]:
    """Jobs of a kind, open ones and finished ones, newest first."""
    statement, values = history_statement(name, which, limit)
    return [_run(row) for row in await conn.fetch(statement, *values)] if statement else []


def history_statement(name: str, which: RunFilter, limit: int) -> tuple[str, list[Any]]:
    """The statement behind a page, empty where nothing can match. Each arm is limited by itself, so that a page costs a page."""
    page = records.Page(name, limit)
    page.add("{{row}}.triggered_by = {}", which.triggered_by)
    page.add("{{row}}.id < {}::bigint", which.before)
    common = str(page)
    arms = []
    for arm, row, words in ((_OPEN, "j", _OPEN_WORDS), (_DONE, "h", _DONE_WORDS)):
        chosen = [words[state] for state in which.states if state in words]
        if chosen or not which.states:
            states = f" and ({' or '.join(chosen)})" if chosen else ""
            source = _CLAIMED if which.states and set(which.states) & set(_OPEN_WORDS) == {"running"} else "ingestd.job j"
            arms.append(f"({arm.format(source=source, where=common.format(row=row) + states)})")
    return (f"select {_COLUMNS} from ({' union all '.join(arms)}) runs order by id desc limit $2" if arms else ""), page.values


def _run(row: asyncpg.Record) -> Run:
    return Run(
        id=str(row["id"]),
        position=row["id"],
        state=row["state"],
        due_at=row["due_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        duration_ms=row["duration_ms"],
        triggered_by=row["triggered_by"],
        job_id=row["id"],
        reason=row["reason"],
        error=row["error"],
        counts=row["counts"],
    )


async def counted(conn: asyncpg.Connection, name: str, within: Window) -> Counted:
    """Jobs of a kind that ended within the window; a partial success counts as a success. Durations are known as powers of two."""
    days: list[DayCount] = []
    buckets: dict[int, int] = {}
    ms = 0
    for row in await conn.fetch(COUNTED, name, list(within.starts)):
        days.append(DayCount(row["day"], row["outcome"], row["n"], row["ms"]))
        if row["outcome"] in (*GOOD, *BAD):
            buckets[row["bucket"]] = buckets.get(row["bucket"], 0) + row["n"]
            ms += row["ms"]
    return Counted(days, spread_of_powers(buckets, ms))


async def streaks(conn: asyncpg.Connection, names: Collection[str]) -> dict[str, Streak]:
    """How the jobs of each kind went lately."""
    return records.streaks(await conn.fetch(STREAKS, list(names)))


async def failing(conn: asyncpg.Connection, names: Collection[str]) -> dict[str, Streak]:
    """The same, only of kinds of which a failure is kept: cheap where nothing fails."""
    return records.streaks(await conn.fetch(FAILING, list(names)))


async def live_kinds(conn: asyncpg.Connection) -> list[str]:
    """Kinds that a living node can run."""
    return [row["name"] for row in await conn.fetch(LIVE)]


async def known(conn: asyncpg.Connection, name: str) -> bool:
    """Whether a node ever published this kind, or a job of it is kept."""
    return bool(await conn.fetchval(KNOWN, name))


async def queue_of(conn: asyncpg.Connection, name: str) -> asyncpg.Record | None:
    """The queue that jobs of a kind go to unless somebody says otherwise: `name, paused, paused_by`."""
    return await conn.fetchrow(QUEUE, name)
