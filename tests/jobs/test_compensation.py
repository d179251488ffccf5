"""Runs that are taken back: in which order, with which arguments, and what is told where that fails."""

from __future__ import annotations

import asyncpg
import pytest

from ingestd.errors import Conflict, NotFound
from ingestd.jobs import actions, run_actions
from ingestd.jobs.model import NewJob, State
from ingestd.jobs.promoter import promote_once
from ingestd.jobs.store import ack, reads, steps
from ingestd.jobs.workflow import Step, start
from tests.jobs.kit import take
from tests.jobs.test_actions import ANN
from tests.jobs.test_workflow_runs import begin, finish, states


def step(name: str, *after: str, undo: bool = True, on_failure: str = "compensate", **job: object) -> Step:
    undoing = NewJob(f"un{name}") if undo else None
    return Step(name, NewJob(name, **job), after, on_failure, undo=undoing)  # type: ignore[arg-type]


CHAIN = (step("a", args={"n": 1}), step("b", "a", undo=False), step("c", "b", args={"n": 3}), step("d", "c"))
DIAMOND = (step("top"), step("left", "top"), step("right", "top"), step("last", "left", "right"))


async def open_kinds(conn: asyncpg.Connection) -> set[str]:
    """Kinds of the jobs that could run now."""
    kinds = {job.kind for job in await take(conn)}
    await conn.execute("update ingestd.job set claim = null, node = null")
    return kinds


async def through(conn: asyncpg.Connection, *names: str, **last: object) -> None:
    """End these steps well, the last one as told."""
    for name in names[:-1]:
        await finish(conn, name)
    await finish(conn, names[-1], **last)  # type: ignore[arg-type]


async def test_what_succeeded_is_taken_back_the_last_first(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *CHAIN)
    await through(conn, "a", "b", "c", "d", state=State.FAILED)
    assert (await states(conn, run))["run"] == "compensating"
    assert await open_kinds(conn) == {"unc"}, "a waits although b between them cannot be taken back"
    await finish(conn, "unc")
    assert await open_kinds(conn) == {"una"}
    await finish(conn, "una")
    assert await states(conn, run) == {
        "run": "failed", "a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "failed",
        "c.undo": "succeeded", "a.undo": "succeeded",
    }  # fmt: skip
    assert await conn.fetchval("select count(*) from ingestd.job") == 0


async def test_branches_are_taken_back_side_by_side_and_what_they_share_after_both(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *DIAMOND)
    await through(conn, "top", "left", "right", "last", state=State.FAILED)
    assert await open_kinds(conn) == {"unleft", "unright"}
    await finish(conn, "unright")
    assert await open_kinds(conn) == {"unleft"}
    await finish(conn, "unleft")
    assert await open_kinds(conn) == {"untop"}
    await finish(conn, "untop")
    assert (await states(conn, run))["run"] == "failed"


async def test_an_undo_gets_the_arguments_and_the_result_of_its_step(conn: asyncpg.Connection) -> None:
    own = Step("b", NewJob("b", {"n": 2}), ("a",), "compensate", undo=NewJob("unb", {"paid": {"from": "b", "path": "id"}, "why": "x"}))
    run = await begin(conn, step("a", args={"n": 1}), own, step("c", "b"))
    await finish(conn, "a", result={"id": 10})
    await finish(conn, "b", result={"id": 20})
    await finish(conn, "c", State.FAILED)
    (job,) = await take(conn)
    assert (job.kind, job.args, job.step) == ("unb", {"paid": 20, "why": "x"}, "b.undo")
    assert await steps.parent_results(conn, run, "b.undo") == {"b": {"id": 20}}
    await conn.execute("update ingestd.job set claim = null, node = null")
    await finish(conn, "unb")
    (job,) = await take(conn)
    assert (job.kind, job.args) == ("una", {"n": 1})
    assert {found["correlation_id"] for found in await reads.list_jobs(conn)} == {f"workflow-{run}"}


async def test_an_undo_whose_arguments_somebody_has_deleted_is_not_run_without_them(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("a", args={"n": 1}), step("b", "a", args={"n": 2}), step("c", "b"))
    await through(conn, "a", "b")
    await actions.delete_job(conn, ANN, await conn.fetchval("select id from ingestd.history where kind = 'b'"))
    await finish(conn, "c", State.FAILED)
    await promote_once(conn)
    (found,) = await reads.workflow_runs(conn, run=run)
    assert (found["state"], found["not_undone"]) == ("failed", ["b", "a"])
    assert [(one["step"], one["state"], one["reason"]) for one in found["steps"][-2:]] == [
        ("b.undo", "failed", "the arguments of b, which it needs, are not kept any more"),
        ("a.undo", "skipped", "skipped: b.undo failed"),
    ]
    assert await conn.fetchval("select count(*) from ingestd.job") == 0


async def test_the_undo_of_an_import_gets_no_arguments_but_its_own(conn: asyncpg.Connection) -> None:
    """Those of the job behind an import step are ours, and no handler knows them."""
    from ingestd.app.targets import target_job
    from ingestd.app.workflows import WorkflowSettings

    steps_ = {"load": {"import": "i", "undo": {"job": "unload"}}, "send": {"job": "send", "after": ["load"]}}
    declared = WorkflowSettings.model_validate({"on_failure": "compensate", "steps": steps_})
    await start(conn, declared.compile("w", target_job), triggered_by="cli")
    await through(conn, "import", "send", state=State.FAILED)
    (job,) = await take(conn)
    assert (job.kind, job.args) == ("unload", {})


async def test_only_a_step_that_says_so_has_the_run_taken_back(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("a"), step("b", "a", on_failure="skip"), step("c", "b"))
    await through(conn, "a", "b", state=State.FAILED)
    assert await states(conn, run) == {"run": "failed", "a": "succeeded", "b": "failed", "c": "skipped"}


async def test_what_has_begun_goes_on_and_what_has_not_is_left_out(conn: asyncpg.Connection) -> None:
    run = await begin(conn, step("first"), step("doomed"), step("long"), step("waits"), step("report", "doomed", on_failure="run"))
    await finish(conn, "first")
    claimed = {job.kind: job for job in await take(conn)}
    idle = [job.id for kind, job in claimed.items() if kind == "waits"]
    await conn.execute("update ingestd.job set claim = null, node = null where id = any ($1)", idle)

    await ack.ack(conn, [ack.Result(claimed["doomed"].id, claimed["doomed"].claim, State.FAILED)])
    await promote_once(conn)
    assert await states(conn, run) == {
        "run": "compensating", "first": "succeeded", "doomed": "failed", "long": "open", "waits": "skipped", "report": "open",
    }  # fmt: skip
    await ack.ack(conn, [ack.Result(claimed["long"].id, claimed["long"].claim, State.SUCCEEDED)])
    await promote_once(conn)
    assert "first.undo" not in await states(conn, run), "it is taken back when nothing goes forward any more"
    await finish(conn, "report")
    assert await open_kinds(conn) == {"unfirst", "unlong", "unreport"}


async def test_a_compensation_that_fails_is_told_and_stops_what_would_come_after_it(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *CHAIN)
    await through(conn, "a", "b", "c", "d", state=State.FAILED)
    await finish(conn, "unc", State.FAILED)
    (found,) = await reads.workflow_runs(conn, run=run)
    assert (found["state"], found["not_undone"]) == ("failed", ["c", "a"])
    (told,) = await steps.not_undone(conn)
    assert (told["id"], told["steps"]) == (run, ["c", "a"])


async def test_a_retry_takes_back_what_was_left_and_another_one_starts_over(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *CHAIN)
    await through(conn, "a", "b", "c", "d", state=State.FAILED)
    await finish(conn, "unc", State.FAILED)
    done = await run_actions.retry_run(conn, ANN, run)
    assert (done.state, done.steps) == ("compensating", ("c.undo", "a.undo"))
    await promote_once(conn)
    await through(conn, "unc", "una")
    assert await states(conn, run) == {
        "run": "failed", "a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "failed",
        "c.undo": "succeeded", "a.undo": "succeeded",
    }  # fmt: skip
    assert await steps.not_undone(conn) == []
    with pytest.raises(Conflict, match="it can only start over as a whole"):
        await run_actions.retry_run(conn, ANN, run, "d")
    done = await run_actions.retry_run(conn, ANN, run)
    assert (done.state, done.steps) == ("running", ("a", "c", "d")), "b could not be taken back and is kept"
    await promote_once(conn)
    assert await open_kinds(conn) == {"a"}, "c is behind a, whatever is kept between them"
    await through(conn, "a", "c", "d")
    assert await states(conn, run) == {"run": "succeeded"} | dict.fromkeys("abcd", "succeeded")


async def test_what_runs_whatever_happens_runs_again_behind_what_runs_again(conn: asyncpg.Connection) -> None:
    tell, aside = step("tell", "b", undo=False, on_failure="run"), step("aside", undo=False, on_failure="run")
    run = await begin(conn, step("a"), step("b", "a"), tell, step("log", "tell", undo=False, on_failure="run"), aside)
    await through(conn, "aside", "a", "b", state=State.FAILED)
    await promote_once(conn)
    await through(conn, "tell", "log", "una")
    done = await run_actions.retry_run(conn, ANN, run)
    assert done.steps == ("a", "b", "tell", "log"), "it had told of the failure; what stands aside of it is kept"
    await promote_once(conn)
    assert await open_kinds(conn) == {"a"}
    await through(conn, "a", "b", "tell", "log")
    assert set((await states(conn, run)).values()) == {"succeeded"}


async def test_what_fails_before_a_kept_step_fails_for_those_behind_it(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *CHAIN)
    await through(conn, "a", "b", "c", "d", state=State.FAILED)
    await through(conn, "unc", "una")
    await run_actions.retry_run(conn, ANN, run)
    await promote_once(conn)
    await finish(conn, "a", State.FAILED)
    assert await states(conn, run) == {"run": "failed", "a": "failed", "b": "succeeded", "c": "skipped", "d": "skipped"}


async def test_a_run_can_be_cancelled_and_taken_back(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *CHAIN)
    await through(conn, "a", "b")
    assert await run_actions.cancel_run(conn, ANN, run, undo=True) == "compensating"
    await promote_once(conn)
    assert await open_kinds(conn) == {"una"}
    await finish(conn, "una")
    assert await states(conn, run) == {
        "run": "cancelled", "a": "succeeded", "b": "succeeded", "c": "cancelled", "d": "cancelled", "a.undo": "succeeded",
    }  # fmt: skip


async def test_a_run_that_is_cancelled_is_kept_as_it_is(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *CHAIN)
    await through(conn, "a", "b")
    assert await run_actions.cancel_run(conn, ANN, run) == "cancelling"
    await promote_once(conn)
    assert (await states(conn, run))["run"] == "cancelled"
    assert await conn.fetchval("select count(*) from ingestd.job") == 0
    with pytest.raises(Conflict, match="there is nothing to cancel"):
        await run_actions.cancel_run(conn, ANN, run)
    with pytest.raises(NotFound):
        await run_actions.cancel_run(conn, ANN, 999)


async def test_a_queue_that_is_gone_fails_the_compensations_and_stalls_nobody(conn: asyncpg.Connection) -> None:
    gone = Step("a", NewJob("a"), (), "compensate", undo=NewJob("una", queue="away"))
    run = await begin(conn, gone, step("b", "a"))
    other = await begin(conn, step("z"))
    await through(conn, "a", "b", state=State.FAILED)
    (found,) = await reads.workflow_runs(conn, run=run)
    assert (found["state"], found["not_undone"]) == ("failed", ["a"])
    assert 'there is no queue "away"' in found["steps"][-1]["reason"]
    await finish(conn, "z")
    assert (await states(conn, other))["run"] == "succeeded"


async def test_a_job_of_a_run_that_was_taken_back_cannot_be_retried_by_itself_but_its_compensation_can(conn: asyncpg.Connection) -> None:
    run = await begin(conn, *CHAIN)
    failed = await conn.fetchval("select id from ingestd.job where kind = 'd'")
    await through(conn, "a", "b", "c", "d", state=State.FAILED)
    for kind in ("unc", None):
        with pytest.raises(Conflict, match="belongs to a workflow run that was taken back"):
            await actions.retry_job(conn, ANN, failed)
        if kind:
            await finish(conn, kind, State.FAILED)
    undo = await conn.fetchval("select job_id from ingestd.workflow_step where run = $1 and step = 'c.undo'", run)
    await actions.retry_job(conn, ANN, undo)
    assert (await states(conn, run))["run"] == "compensating"
    await finish(conn, "unc")
    assert await states(conn, run) == {
        "run": "failed", "a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "failed",
        "c.undo": "succeeded", "a.undo": "skipped",
    }  # fmt: skip
    assert (await run_actions.retry_run(conn, ANN, run)).steps == ("a.undo",)
