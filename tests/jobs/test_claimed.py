"""What a claim brings, and what the plain acknowledgement of many jobs at once leaves."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from datetime import timedelta

import asyncpg

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.store import ack
from tests.jobs.kit import new, take


async def test_a_claimed_job_has_what_it_was_enqueued_with(conn: asyncpg.Connection) -> None:
    everything = NewJob("sync", {"n": 1}, priority=7, max_attempts=9, tags=("a", "b"), correlation_id="c", parent_id=5, triggered_by="cli")
    plain, rich = await enqueue(conn, [NewJob("sync"), everything])
    await conn.execute(
        "update ingestd.job set checkpoint = $2, timeout = $3, hard_timeout = $4, backoff = $5, crashes = 2 where id = $1",
        rich, {"page": 3}, timedelta(seconds=30), timedelta(minutes=2), {"base_s": 1.0},
    )  # fmt: skip
    await conn.execute("update ingestd.job set crashes = 0 where id = $1", rich)
    found = {job.id: job for job in await take(conn)}
    first, second = found[plain], found[rich]
    assert (first.args, first.attempt, first.priority, first.tags, first.triggered_by) == ({}, 1, 0, (), "api")
    assert first.run_at == first.due_at == first.created_at
    assert (second.args, second.priority, second.max_attempts, list(second.tags)) == ({"n": 1}, 7, 9, ["a", "b"])
    assert (second.correlation_id, second.parent_id, second.triggered_by, second.checkpoint) == ("c", 5, "cli", {"page": 3})
    assert (second.timeout, second.hard_timeout, second.backoff) == (timedelta(seconds=30), timedelta(minutes=2), {"base_s": 1.0})


async def test_a_job_that_waited_keeps_when_it_was_wanted(conn: asyncpg.Connection) -> None:
    number = await new(conn)
    row = await conn.fetchrow("update ingestd.job set run_at = run_at - interval '1 minute' where id = $1 returning *", number)
    (job,) = await take(conn)
    assert (job.run_at, job.due_at, job.created_at) == (row["run_at"], row["due_at"], row["created_at"])


async def test_plain_successes_are_moved_to_history_only_under_their_claim(conn: asyncpg.Connection) -> None:
    for _ in range(3):
        await new(conn)
    jobs = await take(conn)
    stale = replace(jobs[2], claim=uuid.uuid4())
    began = time.time()
    acked = await ack.ack_plain(conn, [(jobs[0], began, 5), (jobs[1], began, 70), (stale, began, 1)])
    assert acked == {jobs[0].id, jobs[1].id}
    assert [row[0] for row in await conn.fetch("select id from ingestd.job")] == [stale.id]
    rows = {row["id"]: row for row in await conn.fetch("select * from ingestd.history")}
    assert {number: row["duration_ms"] for number, row in rows.items()} == {jobs[0].id: 5, jobs[1].id: 70}
    assert {row["state"] for row in rows.values()} == {"succeeded"}
    assert abs(rows[jobs[0].id]["started_at"].timestamp() - began) < 1


async def test_plain_successes_of_nobody_change_nothing(conn: asyncpg.Connection) -> None:
    await new(conn)
    (job,) = await take(conn)
    assert await ack.ack_plain(conn, [(replace(job, claim=uuid.uuid4()), 0.0, 0)]) == set()
    assert await ack.ack_plain(conn, [(job, 0.0, 0)]) is None
    assert await conn.fetchval("select count(*) from ingestd.history") == 1
