"""Workflow runs: what goes on when steps end, well or badly, and that deciding twice changes nothing."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from ingestd.jobs import actions
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.store import reads
from ingestd.jobs.workflow import Step, Workflow, order_steps, start
from ingestd.postgres.pool import connect
from tests.jobs.kit import end, take
from tests.jobs.test_actions import ANN


async def begin(conn: asyncpg.Connection, *steps: Step) -> int:
    return await start(conn, Workflow("w", order_steps("w", steps)), triggered_by="cli")


def step(name: str, *after: str, **rules: str) -> Step:
    return Step(name, NewJob(name), after, **rules)  # type: ignore[arg-type]


async def states(conn: asyncpg.Connection, run: int) -> dict[str, str]:
    """The run's state under its own name, and those of its steps."""
    (found,) = await reads.workflow_runs(conn, run=run)
    return {"run": found["state"]} | {one["step"]: one["state"] for one in found["steps"]}


async def finish(conn: asyncpg.Connection, name: str, state: State = State.SUCCEEDED, **how: object) -> None:
    """End a step's job and let the promoter decide."""
    number = await conn.fetchval("select id from ingestd.job where kind = $1", name)
    await end(conn, number, state, **how)
    await conn.execute("update ingestd.job set claim = null, node = null where claim is not null")
    await promote_once(conn)


DIAMOND = (step("top"), step("left", "top"), step("right", "top"), step("bottom", "left", "right"))


async def test_steps_run_when_all_their_parents_have_succeeded(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *DIAMOND)
    assert [job.kind for job in await take(conn)] == ["top"]
    await conn.execute("update ingestd.job set claim = null, node = null")
    await finish(conn, "top", result={"n": 1})
    assert await states(conn, run) == {"run": "running", "top": "succeeded", "left": "open", "right": "open", "bottom": "blocked"}
    await finish(conn, "left")
    assert (await states(conn, run))["bottom"] == "blocked"
    await finish(conn, "right")
    await finish(conn, "bottom")
    assert set((await states(conn, run)).values()) == {"succeeded"}
    (found,) = await reads.workflow_runs(conn, "w")
    assert found["steps"][0]["result"] == {"n": 1}
    assert found["finished_at"] is not None
    assert {job["correlation_id"] for job in await reads.list_jobs(conn)} == {f"workflow-{run}"}


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.SKIPPED])
async def test_a_step_that_did_not_succeed_skips_all_behind_it(conn: asyncpg.Connection, state: State) -> None:
    run = await begin(conn, *DIAMOND)
    await finish(conn, "top", state)
    found = await states(conn, run)
    assert [found[name] for name in ("left", "right", "bottom")] == ["skipped"] * 3
    assert found["run"] == ("failed" if state == State.FAILED else "cancelled")
    assert await conn.fetchval("select count(*) from ingestd.job") == 0
    (bottom,) = await reads.list_jobs(conn, reads.JobFilter(kind="left"))
    assert bottom["reason"] == f"skipped: top {state}"


async def test_a_step_may_run_all_the_same(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("load"), step("report", "load", on_failure="run"), step("publish", "load"))
    await finish(conn, "load", State.FAILED)
    assert await states(conn, run) == {"run": "running", "load": "failed", "report": "open", "publish": "skipped"}
    await finish(conn, "report")
    assert (await states(conn, run))["run"] == "failed"


async def test_a_step_waits_for_all_parents_before_it_is_skipped(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *DIAMOND)
    await finish(conn, "top")
    await finish(conn, "left", State.FAILED)
    assert (await states(conn, run))["bottom"] == "blocked"
    await finish(conn, "right")
    assert (await states(conn, run))["bottom"] == "skipped"


async def test_a_partial_success_is_enough_unless_the_step_wants_all(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("load"), step("any", "load"), step("complete", "load", require="complete"))
    await finish(conn, "load", partial=True)
    assert await states(conn, run) == {"run": "running", "load": "succeeded", "any": "open", "complete": "skipped"}
    await finish(conn, "any")
    assert (await states(conn, run))["run"] == "cancelled"
    (complete,) = await reads.list_jobs(conn, reads.JobFilter(kind="complete"))
    assert complete["reason"] == "skipped: load succeeded (partial)"


async def test_a_run_with_rejects_and_nothing_worse_is_partial(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("load"))
    await finish(conn, "load", partial=True)
    assert (await states(conn, run))["run"] == "partial"


async def test_a_failed_step_that_is_retried_opens_its_run_again(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("load"), step("report", "load", on_failure="run"))
    number = await conn.fetchval("select id from ingestd.job where kind = 'load'")
    await finish(conn, "load", State.FAILED)
    await finish(conn, "report")
    assert (await states(conn, run))["run"] == "failed"
    await actions.retry_job(conn, ANN, number)
    assert await states(conn, run) == {"run": "running", "load": "open", "report": "succeeded"}
    await finish(conn, "load")
    assert (await states(conn, run))["run"] == "succeeded"


async def test_a_waiting_step_can_be_cancelled_by_hand(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *DIAMOND)
    await actions.cancel_job(conn, ANN, await conn.fetchval("select id from ingestd.job where kind = 'left'"))
    await finish(conn, "top")
    await finish(conn, "right")
    assert await states(conn, run) == {
        "run": "cancelled",
        "top": "succeeded",
        "left": "cancelled",
        "right": "succeeded",
        "bottom": "skipped",
    }


async def test_two_promoters_at_once_free_each_step_once(conn: asyncpg.Connection, dsn: str) -> None:
    """Two parents acked at once must not miss each other, and two nodes decide at the same time."""
    runs = [await begin(conn, *DIAMOND) for _ in range(10)]
    promoters = [await connect(dsn) for _ in range(3)]
    try:
        while await conn.fetchval("select exists (select from ingestd.workflow_run where state = 'running')"):
            for job in await take(conn):
                await conn.execute("update ingestd.job set claim = null, node = null where id = $1", job.id)
                await end(conn, job.id, State.FAILED if job.kind == "left" and job.workflow_run == runs[0] else State.SUCCEEDED)
                await conn.execute("update ingestd.job set claim = null, node = null where claim is not null")
            await asyncio.gather(*(promote_once(one) for one in promoters))
    finally:
        for one in promoters:
            await one.close()
    assert [(await states(conn, run))["run"] for run in runs] == ["failed", *["succeeded"] * 9]
    assert (await states(conn, runs[0]))["bottom"] == "skipped"
    assert await conn.fetchval("select count(*) from ingestd.history") == 40
    assert await conn.fetchval("select count(*) from ingestd.job") == 0


async def test_promoting_when_there_is_nothing_to_do_changes_nothing(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *DIAMOND)
    before = await conn.fetch("select * from ingestd.job order by id"), await states(conn, run)
    for _ in range(2):
        assert await promote_once(conn) == set()
    assert (await conn.fetch("select * from ingestd.job order by id"), await states(conn, run)) == before


async def test_a_step_whose_job_is_lost_does_not_stall_its_run(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("load"), step("report", "load"))
    await conn.execute("delete from ingestd.job where kind = 'report'")
    await finish(conn, "load", State.FAILED)
    assert await states(conn, run) == {"run": "failed", "load": "failed", "report": "skipped"}


async def test_a_run_is_inserted_whole_or_not_at_all(conn: asyncpg.Connection) -> None:
    from ingestd.errors import InvalidInput

    with pytest.raises(InvalidInput, match='there is no queue "fast"'):
        await begin(conn, step("load"), Step("bad", NewJob("bad", queue="fast")))
    assert await conn.fetchval("select count(*) from ingestd.workflow_run") == 0
    assert await conn.fetchval("select count(*) from ingestd.job") == 0
