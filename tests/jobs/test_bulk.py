"""One thing done to every job that matches: exactly those, once each, whatever happens in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from ingestd.access.roles import Actor
from ingestd.errors import Conflict, InvalidInput
from ingestd.jobs import actions, bulk
from ingestd.jobs.enqueue import enqueue_alike
from ingestd.jobs.filters import JobFilter
from ingestd.jobs.handlers import run_bulk
from ingestd.jobs.model import Job, NewJob, State
from ingestd.jobs.store import ack, reads
from ingestd.jobs.store.ack import Result
from tests.jobs.kit import end, new, take

ANN = Actor("ann", "operator", "page", "c-1")


async def many(conn: asyncpg.Connection, count: int, state: State | None = None, **options: Any) -> list[int]:
    """Jobs that wait, or that ended."""
    ids = await enqueue_alike(conn, NewJob("sync", **options), [{"n": n} for n in range(count)])
    if state is not None:
        jobs = [job for job in await take(conn, count) if job.id in set(ids)]
        error = {"class": "ValueError", "message": "no"} if state is State.FAILED else None
        assert len(await ack.ack(conn, [Result(job.id, job.claim, state, error=error) for job in jobs])) == count
    return ids


async def states(conn: asyncpg.Connection) -> dict[str, int]:
    found: dict[str, int] = {}
    for job in await reads.list_jobs(conn, JobFilter(kind="sync"), 10_000):
        found[job["state"]] = found.get(job["state"], 0) + 1
    return found


class Worker:
    """Runs a `bulk` job chunk by chunk, as a node would; `die_in` makes it die in the middle of that chunk."""

    def __init__(self, conn: asyncpg.Connection, die_in: int = 0) -> None:
        self.conn = conn
        self.result: Any = None
        self.job: Job
        self.chunks = 0
        self.die_in = die_in
        self.told: list[tuple[float | None, str]] = []

    @asynccontextmanager
    async def step(self, checkpoint: Any) -> AsyncIterator[asyncpg.Connection]:
        async with self.conn.transaction():
            yield self.conn
            self.chunks += 1
            if self.chunks == self.die_in:
                raise ConnectionResetError("killed")
            assert await ack.store_checkpoint(self.conn, self.job.id, self.job.claim, checkpoint)

    def progress(self, fraction: float | None, text: str = "") -> None:
        self.told.append((fraction, text))

    async def run(self) -> dict[str, int]:
        row = await self.conn.fetchrow("select * from ingestd.job where kind = 'bulk'")
        self.job = SimpleNamespace(**row)  # type: ignore[assignment]
        return await run_bulk(self, **row["args"])


async def claim_bulk(conn: asyncpg.Connection) -> None:
    await conn.execute("update ingestd.job set claim = gen_random_uuid(), node = gen_random_uuid() where kind = 'bulk'")


async def test_a_preview_counts_exactly_and_changes_nothing(conn: asyncpg.Connection) -> None:
    await many(conn, 7, State.FAILED)
    await many(conn, 3)
    await new(conn, "other")
    found = await bulk.look(conn, bulk.plan("cancel", JobFilter(kind="sync")))
    assert (found.jobs, found.states, found.kinds, len(found.sample)) == (3, {"available": 3}, {"sync": 3}, 3)
    found = await bulk.look(conn, bulk.plan("delete", JobFilter(kind="sync")))
    assert (found.jobs, found.states, len(found.sample)) == (10, {"failed": 7, "available": 3}, bulk.SAMPLE)
    assert await states(conn) == {"failed": 7, "available": 3}
    assert await conn.fetchval("select count(*) from ingestd.audit") == 0


async def test_a_few_are_done_at_once_with_one_audit_row(conn: asyncpg.Connection) -> None:
    await many(conn, 7, State.FAILED)
    keep = await new(conn, "other")
    asked = await actions.start_bulk(conn, ANN, bulk.plan("retry", JobFilter(kind="sync")))
    assert (asked.jobs, asked.counts, asked.job_id) == (7, {"changed": 7, "skipped": 0}, None)
    assert await states(conn) == {"available": 7}
    (row,) = await conn.fetch("select action, object_type, object_id, detail from ingestd.audit")
    assert tuple(row)[:3] == ("retry", "bulk", "at once")
    assert row["detail"] == {"filter": {"states": ["failed"], "kind": "sync"}, "matched": 7, "changed": 7, "skipped": 0}
    assert (await reads.show_job(conn, keep))["state"] == "available"  # type: ignore[index]


async def test_many_become_a_job_that_goes_on_where_it_was_killed_and_does_nothing_twice(conn: asyncpg.Connection) -> None:
    ids = await many(conn, 1300, State.SUCCEEDED)
    asked = await actions.start_bulk(conn, ANN, bulk.plan("again", JobFilter(kind="sync", states=("succeeded",))))
    assert asked.job_id is not None
    await claim_bulk(conn)
    late = await many(conn, 1, State.SUCCEEDED, priority=50)
    dying = Worker(conn, die_in=4)
    with pytest.raises(ConnectionResetError):
        await dying.run()
    assert await conn.fetchval("select count(*) from ingestd.job where kind = 'sync'") == 1000, "two chunks of 500, and an arm without any"
    worker = Worker(conn)
    assert await worker.run() == {"changed": 1300, "skipped": 0}
    parents = [row["parent_id"] for row in await conn.fetch("select parent_id from ingestd.job where kind = 'sync' order by parent_id")]
    assert parents == ids, "each once, and none of those that came after it was asked"
    assert late[0] not in parents
    assert worker.told[-1] == (1.0, "again: 1300 of about 1300")
    (row,) = await conn.fetch("select object_id, detail from ingestd.audit")
    assert (row["object_id"], row["detail"]["matched"]) == (str(asked.job_id), 1300)


async def test_a_bulk_that_was_cancelled_goes_on_where_it_stopped_when_it_is_retried(conn: asyncpg.Connection) -> None:
    ids = await many(conn, 1300, State.SUCCEEDED)
    asked = await actions.start_bulk(conn, ANN, bulk.plan("again", JobFilter(kind="sync", states=("succeeded",))))
    assert asked.job_id is not None
    await claim_bulk(conn)
    with pytest.raises(ConnectionResetError):
        await Worker(conn, die_in=3).run()
    await actions.cancel_job(conn, ANN, asked.job_id, force=True)
    await actions.retry_job(conn, ANN, asked.job_id)
    await claim_bulk(conn)
    assert await Worker(conn).run() == {"changed": 1300, "skipped": 0}
    parents = [row["parent_id"] for row in await conn.fetch("select parent_id from ingestd.job where kind = 'sync' order by parent_id")]
    assert parents == ids


async def test_each_action_changes_what_it_can_and_leaves_what_runs(conn: asyncpg.Connection) -> None:
    running = await many(conn, 2)
    await take(conn)
    await many(conn, 4)
    at = datetime.now(UTC) + timedelta(hours=2)
    done = await actions.start_bulk(conn, ANN, bulk.plan("snooze", JobFilter(kind="sync"), run_at=at))
    assert done.counts == {"changed": 4, "skipped": 0}
    assert await states(conn) == {"running": 2, "scheduled": 4}
    done = await actions.start_bulk(conn, ANN, bulk.plan("edit", JobFilter(kind="sync"), changes={"priority": 10, "queue": "alerts"}))
    assert done.counts == {"changed": 4, "skipped": 0}
    assert await conn.fetchval("select count(*) from ingestd.job j join ingestd.queue q on q.id = j.queue_id where q.name = 'alerts'") == 4
    done = await actions.start_bulk(conn, ANN, bulk.plan("delete", JobFilter(kind="sync", queue="alerts")))
    assert done.counts == {"changed": 4, "skipped": 0}
    done = await actions.start_bulk(conn, ANN, bulk.plan("cancel", JobFilter(ids=tuple(running))))
    assert done.counts == {"changed": 2, "skipped": 0, "asked": 2}
    assert await states(conn) == {"running": 2}
    done = await actions.start_bulk(conn, ANN, bulk.plan("cancel", JobFilter(kind="sync"), force=True))
    assert done.counts == {"changed": 2, "skipped": 0}
    assert await states(conn) == {"cancelled": 2}


async def test_whoever_said_waiting_does_not_stop_what_has_begun_since(conn: asyncpg.Connection) -> None:
    ids = await many(conn, 3)
    which = bulk.plan("cancel", JobFilter(kind="sync", states=("available",)))
    until = await actions.bulk_store.bound(conn)
    (job, *_) = await take(conn, 1)
    changed, asked = await bulk._change(conn, replace(which, by="ann"), "open", ids, until)
    assert (changed, asked) == (set(ids) - {job.id}, 0)
    assert await conn.fetchval("select cancel_asked_at is null from ingestd.job where id = $1", job.id)


async def test_rows_that_somebody_is_writing_are_passed_over_and_tried_once_more(conn: asyncpg.Connection, dsn: str) -> None:
    """A bulk never waits for a row while it holds others: two of them could wait for each other."""
    from ingestd.postgres.session import connect

    ids = await many(conn, 3)
    asked = bulk.plan("cancel", JobFilter(kind="sync"))
    until = await actions.bulk_store.bound(conn)
    other = await connect(dsn)
    holding = other.transaction()
    await holding.start()
    await other.execute("select from ingestd.job where id = $1 for update", ids[1])
    mark = await bulk.advance(conn, asked, until, bulk.Mark())
    assert (mark.changed, mark.left) == (2, (ids[1],))
    await holding.rollback()
    await other.close()
    mark = await bulk.advance(conn, asked, until, bulk.mark_of(mark.as_json()))
    assert (mark.changed, mark.skipped, mark.left) == (3, 0, ())


async def test_what_ended_after_it_was_asked_is_left_alone(conn: asyncpg.Connection) -> None:
    before, after = await many(conn, 2)
    await end(conn, before, State.FAILED)
    until = await actions.bulk_store.bound(conn)
    await conn.execute("update ingestd.job set claim = null, node = null, claimed_at = null where id = $1", after)
    await end(conn, after, State.FAILED)
    mark = bulk.Mark(arm="done")
    while mark.arm:
        mark = await bulk.advance(conn, bulk.plan("delete", JobFilter(kind="sync")), until, mark)
    assert [job["id"] for job in await reads.list_jobs(conn)] == [after]


async def test_what_came_after_it_was_asked_is_left_alone(conn: asyncpg.Connection) -> None:
    before = await new(conn)
    until = await actions.bulk_store.bound(conn)
    after = await new(conn)
    mark = bulk.Mark()
    while mark.arm:
        mark = await bulk.advance(conn, bulk.plan("cancel", JobFilter(kind="sync")), until, mark)
    assert mark.counts() == {"changed": 1, "skipped": 0}
    assert [(job["id"], job["state"]) for job in await reads.list_jobs(conn)] == [(after, "available"), (before, "cancelled")]


async def test_a_finished_job_that_ended_after_it_was_asked_is_not_run_again(conn: asyncpg.Connection) -> None:
    number = await new(conn)
    until = await actions.bulk_store.bound(conn)
    await end(conn, number)
    mark = await bulk.advance(conn, bulk.plan("again", JobFilter(kind="sync")), until, bulk.Mark(arm="done"))
    assert (mark.arm, mark.changed) == (None, 0)


@pytest.mark.parametrize(
    ("action", "which", "how", "message"),
    [
        ("stop", JobFilter(kind="x"), {}, '"stop" is not an action; one of: cancel, retry'),
        ("cancel", JobFilter(), {}, "say which jobs to cancel: the filter is empty"),
        ("cancel", JobFilter(states=("failed",)), {}, "jobs that are failed cannot be cancelled; only scheduled"),
        ("edit", JobFilter(kind="x"), {}, "say what to change"),
        ("edit", JobFilter(queue="default"), {"changes": {"args": {}}}, "filter by kind"),
        ("snooze", JobFilter(kind="x"), {}, "say until when"),
        ("retry", JobFilter(kind="x"), {"force": True}, "only cancel can be forced"),
        ("delete", JobFilter(kind="x"), {"run_at": datetime.now(UTC)}, "delete takes no time"),
    ],
)
def test_a_bulk_that_makes_no_sense_is_refused(action: str, which: JobFilter, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        bulk.plan(action, which, **how)


async def test_far_more_jobs_than_were_shown_are_not_touched(conn: asyncpg.Connection) -> None:
    await many(conn, 30)
    with pytest.raises(Conflict, match="30 jobs match by now, 5 did when you looked"):
        await actions.start_bulk(conn, ANN, bulk.plan("cancel", JobFilter(kind="sync")), expected=5)
    assert await states(conn) == {"available": 30}


async def test_retry_without_a_state_means_what_failed(conn: asyncpg.Connection) -> None:
    await many(conn, 2, State.FAILED)
    await many(conn, 2, State.CANCELLED)
    await actions.start_bulk(conn, ANN, bulk.plan("retry", JobFilter(kind="sync")))
    assert await states(conn) == {"available": 2, "cancelled": 2}


async def test_dead_jobs_are_grouped_by_what_went_wrong_and_retried_as_a_group(conn: asyncpg.Connection) -> None:
    for n in range(3):
        number = await new(conn, key=f"k{n}", key_strict=True)
        await conn.execute("update ingestd.job set parked = 0 where id = $1", number)
        error = {"class": "HTTPError", "message": f"price {n} of 'acme{n}': status 503", "traceback": "..."}
        await end(conn, number, State.FAILED, error=error)
    other = await new(conn)
    await end(conn, other, State.FAILED, error={"class": "KeyError", "message": "price"})
    await end(conn, await new(conn), State.CANCELLED)
    groups = await reads.dead_groups(conn)
    assert [(group["error_class"], group["message"], group["jobs"], group["holding"]) for group in groups] == [
        ("KeyError", "price", 1, 0),
        ("HTTPError", "price # of …: status #", 3, 3),
    ]
    assert groups[0]["sample"] == other
    assert groups[1]["first_seen"] <= groups[1]["last_seen"]
    done = await actions.start_bulk(conn, ANN, bulk.plan("retry", JobFilter(error_group=groups[1]["error_group"])))
    assert done.counts == {"changed": 3, "skipped": 0}
    assert [group["error_class"] for group in await reads.dead_groups(conn)] == ["KeyError"]
