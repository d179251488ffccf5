"""The job that starts a workflow and ends as its run does."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from ingestd.app.handlers import handlers
from ingestd.errors import StaleClaim
from ingestd.events import Bus
from ingestd.jobs import run_actions
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import AwaitChildren, Discard, Job, NewJob, Slot, State
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.settings import RetentionSettings
from ingestd.jobs.store import ack, promote, reads
from ingestd.jobs.workflow import Step, Workflow, order_steps
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from tests.jobs.kit import end, new, put_back, take
from tests.jobs.test_actions import ANN
from tests.jobs.test_workflow_runs import states

STEPS = (Step("a", NewJob("a"), undo=NewJob("una")), Step("b", NewJob("b"), ("a",), "compensate"))
WORKFLOW = Workflow("w", order_steps("w", STEPS), overlap="skip")


async def nothing() -> Mapping[str, Any]:
    return {}


async def run(db: Database, job: Job, workflow: Workflow = WORKFLOW) -> Any:
    """One attempt of the job."""
    (spec,) = [one for one in handlers(RetentionSettings, lambda: {"w": workflow}, nothing, []) if one.kind == "workflow"]
    ctx = Context(job, db, uuid.uuid4(), Bus())
    answer = await spec.run(ctx, **job.args)
    return ctx.acked or answer


async def begun(db: Database, conn: asyncpg.Connection) -> tuple[int, int]:
    """A job that waits for its run."""
    number = await new(conn, "workflow", args={"workflow": "w"})
    (job,) = await take(conn)
    outcome = await run(db, job)
    assert isinstance(outcome, AwaitChildren)
    await put_back(conn, job, delay=job.run_at - job.run_at, spent=False, parked=4, checkpoint=outcome.checkpoint)
    await promote_once(conn)
    return number, outcome.checkpoint["run"]


async def parked(conn: asyncpg.Connection, number: int) -> bool:
    return bool(await conn.fetchval("select parked from ingestd.job where id = $1", number))


async def finish(conn: asyncpg.Connection, kind: str, state: State = State.SUCCEEDED) -> None:
    await end(conn, await conn.fetchval("select id from ingestd.job where kind = $1", kind), state)
    await conn.execute("update ingestd.job set claim = null, node = null where claim is not null")
    await promote_once(conn)


async def test_it_waits_until_everything_is_taken_back_and_fails_with_its_run(db: Database, conn: asyncpg.Connection) -> None:
    number, flow = await begun(db, conn)
    await finish(conn, "a")
    await end(conn, await conn.fetchval("select id from ingestd.job where kind = 'b'"), State.FAILED)
    assert await promote.unpark_parents(conn) == [], "no step is open, but its run is"
    await promote_once(conn)
    assert await parked(conn, number)
    await finish(conn, "una")
    assert not await parked(conn, number)
    (job,) = await take(conn)
    outcome = await run(db, job)
    assert outcome == Discard(f"workflow run {flow} failed: b failed")


async def test_the_steps_of_a_scheduled_run_are_told_its_slot(db: Database, conn: asyncpg.Connection) -> None:
    slot = Slot("nightly", datetime(2027, 1, 1, 2, tzinfo=UTC), catch_up=True)
    await enqueue(conn, [NewJob("workflow", {"workflow": "w"}, metadata=slot.written(), triggered_by="catch_up")])
    (job,) = await take(conn)
    await run(db, job)
    (step,) = await take(conn)
    assert (step.kind, step.slot) == ("a", slot)
    await conn.execute("update ingestd.job set claim = null, node = null, parked = case id when $1 then 4 else parked end", job.id)
    await finish(conn, "a")
    await finish(conn, "b", State.FAILED)
    (undo,) = await take(conn)
    assert (undo.kind, undo.slot) == ("una", slot)


async def test_it_is_cancelled_with_its_run(db: Database, conn: asyncpg.Connection) -> None:
    number, flow = await begun(db, conn)
    await run_actions.cancel_run(conn, ANN, flow)
    await promote_once(conn)
    (job,) = await take(conn)
    assert (await run(db, job)).state is State.CANCELLED
    found = await reads.show_job(conn, number)
    assert found is not None
    assert (found["state"], found["reason"]) == ("cancelled", f"workflow run {flow} cancelled: a cancelled, b cancelled")


async def test_a_process_that_died_after_the_start_has_not_started_another_run(db: Database, conn: asyncpg.Connection) -> None:
    await new(conn, "workflow", args={"workflow": "w"})
    (job,) = await take(conn)
    outcome = await run(db, job)
    assert isinstance(outcome, AwaitChildren)
    # It could not say so; the job is rescued with what was noted in the transaction of the start.
    noted = await conn.fetchval("select checkpoint from ingestd.job where id = $1", job.id)
    again = await run(db, replace(job, checkpoint=noted))
    assert again == outcome
    assert await conn.fetchval("select count(*) from ingestd.workflow_run") == 1


async def test_whoever_lost_the_job_starts_nothing(db: Database, conn: asyncpg.Connection) -> None:
    await new(conn, "workflow", args={"workflow": "w"})
    (job,) = await take(conn)
    with pytest.raises(StaleClaim):
        await run(db, replace(job, claim=uuid.uuid4()))
    assert await conn.fetchval("select count(*) from ingestd.workflow_run") == 0


async def test_it_is_skipped_where_another_run_is_open_and_nobody_else_may_skip_it(db: Database, conn: asyncpg.Connection) -> None:
    _, flow = await begun(db, conn)
    number = await new(conn, "workflow", args={"workflow": "w"})
    (job,) = [one for one in await take(conn) if one.id == number]
    with pytest.raises(StaleClaim):
        await run(db, replace(job, claim=uuid.uuid4()))
    ended = await run(db, job)
    assert isinstance(ended, ack.Result)
    assert (ended.state, ended.reason) == (State.SKIPPED, f'workflow "w" is still busy with run {flow}')
    assert (await states(conn, flow))["run"] == "running"
