"""Workflow runs: what goes on when steps end, well or badly, and that deciding twice changes nothing."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from ingestd.errors import Conflict, NotFound
from ingestd.jobs import actions, run_actions
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.store import reads, steps
from ingestd.jobs.workflow import Step, Workflow, order_steps, start
from ingestd.postgres.session import connect
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


def uses(name: str, parent: str, path: str = "id", **rules: str) -> Step:
    return Step(name, NewJob(name, {"of": {"from": parent, "path": path}}), (parent,), **rules)  # type: ignore[arg-type]


async def test_a_step_is_given_what_an_earlier_one_resulted_in(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("fetch"), uses("load", "fetch", "rows.1.id"))
    await finish(conn, "fetch", result={"rows": [{"id": 1}, {"id": 2}]})
    (job,) = await take(conn)
    assert (job.kind, job.args) == ("load", {"of": 2})
    assert await steps.parent_results(conn, run, "load") == {"fetch": {"rows": [{"id": 1}, {"id": 2}]}}


async def test_a_step_whose_argument_is_not_there_fails_with_the_reason_and_those_behind_it_are_skipped(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("fetch"), uses("load", "fetch", "nr"), step("report", "load"))
    await finish(conn, "fetch", result={"id": 2})
    assert await states(conn, run) == {"run": "failed", "fetch": "succeeded", "load": "failed", "report": "skipped"}
    (job,) = await reads.list_jobs(conn, reads.JobFilter(kind="load"))
    assert (job["state"], job["reason"]) == ("failed", 'argument "of": the result of fetch has no "nr", it has id')
    assert await conn.fetchval("select keep from ingestd.history where kind = 'load'") == "bad"


async def test_a_step_that_runs_all_the_same_needs_no_less_of_its_arguments(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("fetch"), uses("load", "fetch", on_failure="run"))
    await finish(conn, "fetch", State.FAILED, result={"id": 2})
    (found,) = await reads.workflow_runs(conn, run=run)
    assert found["steps"][1]["reason"] == 'argument "of" needs the result of step "fetch", which has not succeeded'


async def test_arguments_are_looked_up_again_for_every_retry(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("fetch"), uses("load", "fetch"))
    await finish(conn, "fetch", result={"id": 1})
    await finish(conn, "load", State.FAILED)
    for number, retry in enumerate((run_actions.retry_run(conn, ANN, run), None)):
        if retry:
            await retry
        else:
            await actions.retry_job(conn, ANN, await conn.fetchval("select id from ingestd.history where kind = 'load'"))
        await conn.execute("update ingestd.workflow_step set result = $2 where run = $1 and step = 'fetch'", run, {"id": 10 + number})
        await promote_once(conn)
        (job,) = await take(conn)
        assert job.args == {"of": 10 + number}
        await conn.execute("update ingestd.job set claim = null, node = null")
        await finish(conn, "load", State.FAILED)


async def test_a_retry_runs_again_what_did_not_succeed_and_keeps_the_rest(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *DIAMOND, step("after", "bottom"), step("aside"))
    for name in ("top", "right", "aside"):
        await finish(conn, name)
    await finish(conn, "left", State.FAILED)
    assert (await states(conn, run))["run"] == "failed"
    done = await run_actions.retry_run(conn, ANN, run)
    assert (done.state, done.steps) == ("running", ("left", "bottom", "after"))
    with pytest.raises(Conflict, match="only a run that has ended can be retried"):
        await run_actions.retry_run(conn, ANN, run)
    await promote_once(conn)
    for name in ("left", "bottom", "after"):
        await finish(conn, name)
    assert set((await states(conn, run)).values()) == {"succeeded"}
    with pytest.raises(Conflict, match="every step of it succeeded"):
        await run_actions.retry_run(conn, ANN, run)
    assert await conn.fetchval("select array_agg(action order by id) from ingestd.audit where object_type = 'workflow_run'") == ["retry"]


async def test_a_retry_of_one_step_leaves_other_failures_alone(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("a"), step("b"), step("c", "a"), step("d", "b"))
    await finish(conn, "a", State.FAILED)
    await finish(conn, "b", State.FAILED)
    for name, problem in (("c", "would be skipped again: a failed; retry from there"), ("x", 'has no step "x"')):
        with pytest.raises((Conflict, NotFound), match=problem):
            await run_actions.retry_run(conn, ANN, run, name)
    assert (await run_actions.retry_run(conn, ANN, run, "a")).steps == ("a", "c")
    await promote_once(conn)
    await finish(conn, "a")
    await finish(conn, "c")
    assert await states(conn, run) == {"run": "failed", "a": "succeeded", "b": "failed", "c": "succeeded", "d": "skipped"}
    with pytest.raises(Conflict, match="it is kept"):
        await run_actions.retry_run(conn, ANN, run, "a")


async def test_a_retry_runs_a_partial_step_again_where_all_of_it_was_wanted(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("load"), step("publish", "load", require="complete"))
    await finish(conn, "load", partial=True)
    assert (await run_actions.retry_run(conn, ANN, run)).steps == ("load", "publish")
    await promote_once(conn)
    await finish(conn, "load")
    await finish(conn, "publish")
    assert (await states(conn, run))["run"] == "succeeded"


async def test_a_retry_of_what_is_no_longer_kept_changes_nothing(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("a"), step("b", "a"))
    await finish(conn, "a", State.FAILED)
    await conn.execute("delete from ingestd.history where kind = 'b'")
    before = await states(conn, run)
    with pytest.raises(Conflict, match="the jobs of b are not kept any more"):
        await run_actions.retry_run(conn, ANN, run)
    assert await states(conn, run) == before
    with pytest.raises(NotFound):
        await run_actions.retry_run(conn, ANN, 999)


async def test_a_step_never_shares_the_job_of_somebody_else(conn: asyncpg.Connection) -> None:
    """A refresh of the same rollup may be on its way already: it would end without telling the run."""
    from tests.jobs.kit import new

    other = await new(conn, "rollup", unique_key="rollup:x")
    run = await begin(conn, Step("refresh", NewJob("rollup", unique_key="rollup:x")))
    mine = await conn.fetchval("select job_id from ingestd.workflow_step where run = $1", run)
    assert mine != other
    assert await new(conn, "rollup", unique_key="rollup:x") == other


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


async def test_a_step_whose_job_is_lost_fails_also_when_it_was_about_to_run(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("load"), step("report", "load"), step("open"))
    await conn.execute("delete from ingestd.job where kind = 'report'")
    await finish(conn, "load")
    assert (await states(conn, run))["report"] == "failed"
    await conn.execute("delete from ingestd.job where kind = 'open'")
    assert await steps.close_lost(conn) == [run]
    await promote_once(conn)
    assert await states(conn, run) == {"run": "failed", "load": "succeeded", "report": "failed", "open": "failed"}


async def test_what_is_wrong_with_one_run_holds_up_no_other(conn: asyncpg.Connection) -> None:
    broken = await begin(conn, step("a"), step("b", "a"))
    await conn.execute("update ingestd.workflow_step set undo = '3', on_failure = 'compensate' where run = $1", broken)
    run = await begin(conn, step("c"), step("d", "c"))
    await finish(conn, "a")
    with pytest.raises(TypeError):
        await finish(conn, "b", State.FAILED)
    with pytest.raises(TypeError):
        await finish(conn, "c")
    assert (await states(conn, run))["d"] == "open"


async def test_a_run_is_inserted_whole_or_not_at_all(conn: asyncpg.Connection) -> None:
    from ingestd.errors import InvalidInput

    with pytest.raises(InvalidInput, match='there is no queue "fast"'):
        await begin(conn, step("load"), Step("bad", NewJob("bad", queue="fast")))
    assert await conn.fetchval("select count(*) from ingestd.workflow_run") == 0
    assert await conn.fetchval("select count(*) from ingestd.job") == 0
