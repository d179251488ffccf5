"""A job that leaves one row a run, and the check that every job has left exactly one.

The table has no key on purpose: a second run must leave its mark, not fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.work.context import Context

KIND = "ledger"
LEDGER = """
create schema if not exists faults;
create table if not exists faults.ledger (
    job_id   bigint not null,
    attempt  integer not null,
    node     uuid not null,
    at       timestamptz not null default clock_timestamp()
)"""
ENTER = "insert into faults.ledger (job_id, attempt, node) values ($1, $2, $3)"


@dataclass(frozen=True)
class Verdict:
    """What became of the jobs that were accepted.

    Args:
        lost: neither open nor in history.
        open: not final yet.
        failed: final, but not succeeded.
        without_effect: succeeded, and left no row.
        doubled: left more than one row, and how many.
        uninvited: rows of jobs that nobody has accepted.
        twice_final: more than once in history.
    """

    lost: list[int]
    open: list[int]
    failed: list[int]
    without_effect: list[int]
    doubled: dict[int, int]
    uninvited: list[int]
    twice_final: list[int]

    @property
    def exactly_once(self) -> bool:
        """Every accepted job succeeded once and left one row, and nothing else did."""
        return self == Verdict([], [], [], [], {}, [], [])


async def open_ledger(conn: asyncpg.Connection) -> None:
    """Make the table, if it is not there."""
    await conn.execute(LEDGER)


async def enter(ctx: Context) -> None:
    """The job: one row, committed together with its completion."""
    async with ctx.transaction() as conn:
        await conn.execute(ENTER, ctx.job.id, ctx.job.attempt, ctx.node)


async def accept(conn: asyncpg.Connection, count: int) -> list[int]:
    """Enqueue that many jobs in one transaction; whoever has the answer has been promised them."""
    async with conn.transaction():
        return await enqueue(conn, [NewJob(KIND) for _ in range(count)])


async def judge(conn: asyncpg.Connection, accepted: Sequence[int]) -> Verdict:
    """Compare what was accepted with what the queue, history and ledger say, in one snapshot."""
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        still_open = {row["id"] for row in await conn.fetch("select id from ingestd.job where kind = $1", KIND)}
        final = [(row["id"], row["state"]) for row in await conn.fetch("select id, state from ingestd.history where kind = $1", KIND)]
        rows = Counter(row["job_id"] for row in await conn.fetch("select job_id from faults.ledger"))
    ids = set(accepted)
    ended = Counter(job_id for job_id, _ in final)
    succeeded = {job_id for job_id, state in final if state == "succeeded"}
    return Verdict(
        lost=sorted(ids - still_open - ended.keys()),
        open=sorted(still_open & ids),
        failed=sorted(ended.keys() & ids - succeeded),
        without_effect=sorted(succeeded & ids - rows.keys()),
        doubled={job_id: count for job_id, count in sorted(rows.items()) if count > 1},
        uninvited=sorted(rows.keys() - ids),
        twice_final=sorted(job_id for job_id, count in ended.items() if count > 1),
    )


async def assert_exactly_once(conn: asyncpg.Connection, accepted: Sequence[int]) -> None:
    """Every job that was accepted has succeeded once and left one row.

    Raises:
        AssertionError: names the jobs for which that is not so; retry it with `eventually` while jobs are open.
    """
    verdict = await judge(conn, accepted)
    assert verdict.exactly_once, verdict


async def assert_exactly_once_of(conn: asyncpg.Connection, ids: Sequence[int]) -> None:
    """Each of these jobs, of whatever kind, has succeeded once and left one row.

    Raises:
        AssertionError: names what is otherwise.
    """
    rows = Counter(row["job_id"] for row in await conn.fetch("select job_id from faults.ledger where job_id = any ($1)", list(ids)))
    final = Counter(
        (row["id"], row["state"]) for row in await conn.fetch("select id, state from ingestd.history where id = any ($1)", list(ids))
    )
    assert rows == Counter(ids), rows
    assert final == Counter((job_id, "succeeded") for job_id in ids), final
