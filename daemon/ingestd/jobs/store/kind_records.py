"""Records of kinds: their jobs. Numbers come from the deltas that acks append; history is read by its index, a page at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import asyncpg

from ingestd.jobs.records import BAD, GOOD, Counted, DayCount, Run, RunFilter, Streak, Window, spread_of_powers
from ingestd.jobs.store import records

# What counting failures in a row may read of one kind: this number means that many or more.
MOST_FAILURES = 100_000

# How many jobs a page looks through that are not of the one who triggered them.
MOST_LOOKED_AT = 100_000

_OPEN_WORDS = {"running": "j.claim is not null", "waiting": "j.claim is null"}
_ODD_WORDS = {"partial": "h.partial", "cancelled": "h.state = 'cancelled'", "skipped": "h.state = 'skipped'"}
_COLUMNS = "id, state, due_at, started_at, finished_at, duration_ms, triggered_by, reason, error, counts"
_OPEN = """
select j.id, case when j.claim is null then 'waiting' else 'running' end as state, j.due_at, j.claimed_at as started_at,
       null::timestamptz as finished_at, (extract(epoch from clock_timestamp() - j.claimed_at) * 1000)::bigint as duration_ms,
       j.triggered_by, null::text as reason, j.attempts -> -1 -> 'error' as error, null::jsonb as counts
from ingestd.job j where j.kind = $1 and j.id <= {below}{where} order by j.id desc limit {limit}"""
_SHOWN = """
select h.id, case when h.partial then 'partial' else h.state end as state, h.due_at, h.started_at, h.finished_at, h.duration_ms,
       h.triggered_by, h.reason, h.error, h.counts"""
_DONE = f"""{_SHOWN}
from ingestd.history h where {{of}}{{where}} order by h.kind desc, h.id desc limit {{limit}}"""
# Few are neither failed nor wholly good: an index of their own has them, which the planner weighs against that of the kind.
_ODD = f"""{_SHOWN}
from ingestd.history h
where h.kind = $1 and h.id <= {{below}} and h.keep = 'ok' and (h.state <> 'succeeded' or h.partial){{where}}
order by h.id desc limit {{limit}}"""

COUNTED = """
select width_bucket(minute, $2::timestamptz[]) - 1 as day, outcome, bucket, sum(n)::bigint as n, sum(ms)::bigint as ms
from ingestd.job_stat
where kind = $1 and minute >= ($2::timestamptz[])[1] and minute < ($2::timestamptz[])[array_length($2::timestamptz[], 1)]
group by 1, 2, 3"""

_THEIRS = records.of("kind", "k.name", "id")
_NEWEST = "order by kind desc, id desc limit 1"
_GOOD = f"select id, finished_at from ingestd.history where keep = 'ok' and {_THEIRS} and state = 'succeeded' {_NEWEST}"
_BAD = f"select id, finished_at from ingestd.history where keep = 'bad' and {_THEIRS} {_NEWEST}"
# A kind of which nothing failed is told by the few partitions of failures alone.
FAILING = f"""
select k.name, good.finished_at as last_success_at, bad.finished_at as last_failure_at, (select count(*) from (
           select from ingestd.history where keep = 'bad' and {records.since("kind", "k.name", "id", "good.id")} limit {MOST_FAILURES}
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
    below = page.below(which.before)
    page.add("triggered_by = {}", which.triggered_by)
    by = f" where triggered_by = ${len(page.values)}" if which.triggered_by is not None else ""
    looked_at = MOST_LOOKED_AT if by else "$2"
    arms = [
        f"({arm.format(of=records.of('h.kind', '$1', 'h.id', below), below=below, where=states, limit=looked_at)})"
        for arm, states in _arms(which.states)
    ]
    runs = " union all ".join(arms)
    return (f"select {_COLUMNS} from ({runs}) runs{by} order by id desc limit $2" if arms else ""), page.values


def _arms(states: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Where to look for jobs in these states: the query, and what narrows it."""
    open_states = [state for state in states if state in _OPEN_WORDS]
    if not states or len(open_states) == len(_OPEN_WORDS):
        yield _OPEN, ""
    elif open_states:
        yield _OPEN, f" and {_OPEN_WORDS[open_states[0]]}"
    if not states:
        yield _DONE, ""
    if "succeeded" in states:
        yield _DONE, " and h.keep = 'ok' and h.state = 'succeeded' and not h.partial"
    if "failed" in states:
        yield _DONE, " and h.keep = 'bad'"
    odd = " or ".join(_ODD_WORDS[state] for state in states if state in _ODD_WORDS)
    if odd:
        yield _ODD, f" and ({odd})"


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
