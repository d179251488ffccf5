"""Running jobs: outcomes, retries, fences, drain."""

from __future__ import annotations

import asyncio
import gc
from datetime import timedelta
from typing import Any

import pytest

from ingestd.access.roles import Actor
from ingestd.errors import StaleClaim
from ingestd.events import JobRetrying, JobsSucceeded, StaleAck
from ingestd.jobs.actions import cancel_job
from ingestd.jobs.backoff import Backoff
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import AwaitChildren, Discard, NewJob, Retry, Snooze
from ingestd.jobs.store.reads import show_job
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from tests.support import eventually
from tests.work.conftest import handler, working


async def put(db: Database, *jobs: NewJob) -> list[int]:
    async with db.services() as conn:
        return await enqueue(conn, jobs)


async def job(db: Database, job_id: int) -> dict[str, Any]:
    async with db.services() as conn:
        found = await show_job(conn, job_id)
    assert found is not None
    return found


async def state_is(db: Database, job_id: int, *states: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found = await job(db, job_id)
        return found if found["state"] in states else None

    return await eventually(look, saying=f"job {job_id} in {states}")


async def test_a_job_runs_once_and_keeps_its_result(db: Database) -> None:
    seen: list[int] = []

    async def double(ctx: Context, n: int) -> None:
        seen.append(n)
        ctx.result = {"twice": 2 * n}

    async with working(db, handler("double", double)):
        (job_id,) = await put(db, NewJob("double", {"n": 21}))
        done = await state_is(db, job_id, "succeeded")
    assert (done["result"], done["attempt"], seen) == ({"twice": 42}, 1, [21])


async def test_two_thousand_jobs_each_run_exactly_once(db: Database) -> None:
    seen: list[int] = []

    async def note(ctx: Context, n: int) -> None:
        seen.append(n)

    await put(db, *[NewJob("note", {"n": n}) for n in range(2000)])
    async with working(db, handler("note", note)) as bench:
        await eventually(lambda: sum(len(e.durations_ms) for e in bench.events if isinstance(e, JobsSucceeded)) == 2000)
    assert sorted(seen) == list(range(2000))
    async with db.services() as conn:
        assert await conn.fetchval("select count(*) from ingestd.job") == 0
        assert await conn.fetchval("select sum(n) from ingestd.job_stat where kind = 'note'") == 2000


async def test_a_job_that_was_taken_away_and_comes_back_to_the_same_node_costs_no_slot(db: Database) -> None:
    began: list[int] = []
    go = asyncio.Event()

    async def wait(ctx: Context) -> None:
        began.append(ctx.job.id)
        await go.wait()

    async with working(db, handler("wait", wait), slots={"default": 2}) as bench, db.services() as conn:
        await enqueue(conn, [NewJob("wait")])
        await eventually(lambda: len(began) == 1)
        await conn.execute("update ingestd.job set claim = null, node = null, claimed_at = null")
        await eventually(lambda: len(began) == 2)
        go.set()
        await eventually(lambda: not bench.worker.running)
        go.clear()
        await enqueue(conn, [NewJob("wait"), NewJob("wait")])
        bench.worker.wake()
        await eventually(lambda: bench.worker.running == 2, saying="both slots work")
        go.set()


async def test_a_job_that_has_ended_is_forgotten_without_the_collector(db: Database) -> None:
    async def work(ctx: Context) -> None:
        pass

    async def with_extras(ctx: Context) -> int:
        ctx.progress(0.5, "half")
        return 1

    gc.collect()
    gc.disable()
    try:
        async with working(db, handler("work", work), handler("extras", with_extras)) as bench:
            async with db.services() as conn:
                await enqueue(conn, [NewJob(kind) for kind in ("work", "extras") for _ in range(100)])
            bench.worker.wake()
            await eventually(lambda: len(bench.events) >= 100 and not bench.worker.running and not bench.worker.acker.unwritten)
            # Each slot still holds its last one in a variable.
            assert sum(isinstance(each, Context) for each in gc.get_objects()) < 50
    finally:
        gc.enable()


async def test_a_handler_that_cancels_its_own_task_as_it_ends_takes_neither_its_slot_nor_the_next_job_with_it(db: Database) -> None:
    async def selfish(ctx: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def waits(ctx: Context) -> None:
        await asyncio.sleep(0)

    async with working(db, handler("selfish", selfish), handler("waits", waits, max_attempts=1), slots={"default": 1}) as bench:
        ids = await put(db, *[NewJob(kind) for kind in ("selfish", "waits", "selfish")])
        for job_id in ids:
            await state_is(db, job_id, "succeeded")
        await eventually(lambda: not bench.worker.running)
        (last,) = await put(db, NewJob("waits"))
        await state_is(db, last, "succeeded")


async def test_retry_runs_again_after_the_delay_it_asked_for(db: Database) -> None:
    async def flaky(ctx: Context) -> Retry | None:
        return Retry(after="50ms", reason="not yet") if ctx.job.attempt < 3 else None

    async with working(db, handler("flaky", flaky)) as bench:
        (job_id,) = await put(db, NewJob("flaky"))
        done = await state_is(db, job_id, "succeeded")
    assert [entry["outcome"] for entry in done["attempts"]] == ["retry", "retry", "succeeded"]
    assert [event.delay_s for event in bench.events if isinstance(event, JobRetrying)] == [0.05, 0.05]


async def test_an_exception_is_retried_with_backoff_until_attempts_are_spent(db: Database) -> None:
    async def broken(ctx: Context) -> None:
        raise ValueError("no luck")

    spec = handler("broken", broken, max_attempts=3, backoff=Backoff(base_s=0.01, jitter=0))
    async with working(db, spec):
        (job_id,) = await put(db, NewJob("broken"))
        done = await state_is(db, job_id, "failed")
    assert done["attempt"] == 3
    assert done["error"]["class"] == "ValueError"
    assert "no luck" in done["error"]["traceback"]


async def test_discard_fails_at_once_without_a_retry(db: Database) -> None:
    async def hopeless(ctx: Context) -> Discard:
        return Discard("there is no such supplier")

    async with working(db, handler("hopeless", hopeless)):
        (job_id,) = await put(db, NewJob("hopeless"))
        done = await state_is(db, job_id, "failed")
    assert (done["attempt"], done["reason"]) == (1, "there is no such supplier")


async def test_snooze_spends_no_attempt(db: Database) -> None:
    naps = []

    async def sleepy(ctx: Context) -> Snooze | None:
        naps.append(ctx.job.attempt)
        return Snooze("20ms") if len(naps) < 3 else None

    async with working(db, handler("sleepy", sleepy)):
        (job_id,) = await put(db, NewJob("sleepy"))
        await state_is(db, job_id, "succeeded")
    assert naps == [1, 1, 1]


async def test_an_attempt_over_its_timeout_is_cancelled_and_retried(db: Database) -> None:
    async def slow(ctx: Context) -> None:
        if ctx.job.attempt == 1:
            await asyncio.Event().wait()

    spec = handler("slow", slow, timeout=timedelta(seconds=0.1), backoff=Backoff(base_s=0.01))
    async with working(db, spec):
        (job_id,) = await put(db, NewJob("slow"))
        done = await state_is(db, job_id, "succeeded")
    assert done["attempts"][0]["error"]["class"] == "TimedOut"


async def test_arguments_that_do_not_fit_the_handler_fail_without_running_it(db: Database) -> None:
    async def strict(ctx: Context, supplier: str) -> None:
        raise AssertionError("must not run")

    async with working(db, handler("strict", strict)):
        (job_id,) = await put(db, NewJob("strict", {"suplier": "acme"}))
        done = await state_is(db, job_id, "failed")
    assert "supplier" in done["reason"]


async def test_rows_and_completion_commit_together(db: Database) -> None:
    async def write(ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute("insert into effect values (1)")
            ctx.result = {"rows": 1}

    async with db.services() as conn:
        await conn.execute("create table effect (n int)")
    async with working(db, handler("write", write)):
        (job_id,) = await put(db, NewJob("write"))
        done = await state_is(db, job_id, "succeeded")
    assert done["result"] == {"rows": 1}


async def test_a_transaction_whose_claim_went_stale_leaves_nothing(db: Database) -> None:
    outcome: list[BaseException] = []

    async def zombie(ctx: Context) -> None:
        if ctx.job.attempt > 1 or outcome:
            return
        try:
            async with ctx.transaction() as conn:
                await conn.execute("insert into effect values (1)")
                async with db.services() as other:
                    await other.execute("update ingestd.job set claim = gen_random_uuid() where id = $1", ctx.job.id)
        except StaleClaim as error:
            outcome.append(error)
            raise

    async with db.services() as conn:
        await conn.execute("create table effect (n int)")
    async with working(db, handler("zombie", zombie)) as bench:
        await put(db, NewJob("zombie"))
        await eventually(lambda: any(isinstance(event, StaleAck) for event in bench.events))
        async with db.services() as conn:
            assert await conn.fetchval("select count(*) from effect") == 0
            assert await conn.fetchval("select count(*) from ingestd.history") == 0
    assert outcome


async def test_an_error_after_the_commit_is_not_retried(db: Database) -> None:
    runs = []

    async def late(ctx: Context) -> None:
        runs.append(1)
        async with ctx.transaction():
            pass
        raise ValueError("too late to matter")

    async with working(db, handler("late", late)):
        (job_id,) = await put(db, NewJob("late"))
        await state_is(db, job_id, "succeeded")
    assert runs == [1]


async def test_a_parent_goes_on_when_its_children_are_final(db: Database) -> None:
    async def parent(ctx: Context) -> AwaitChildren | None:
        if ctx.job.checkpoint is None:
            ids = await ctx.enqueue(NewJob("child", parent_id=ctx.job.id), NewJob("child", parent_id=ctx.job.id))
            return AwaitChildren({"children": ids})
        ctx.result = ctx.job.checkpoint
        return None

    async def child(ctx: Context) -> None: ...

    async with working(db, handler("parent", parent), handler("child", child)):
        (job_id,) = await put(db, NewJob("parent"))
        done = await state_is(db, job_id, "succeeded")
    assert len(done["result"]["children"]) == 2
    assert done["attempt"] == 1


async def test_jobs_of_one_key_run_one_at_a_time_in_order(db: Database) -> None:
    order: list[int] = []
    at_once = []

    async def step(ctx: Context, n: int) -> None:
        at_once.append(n)
        await asyncio.sleep(0.01)
        order.append(n)
        assert at_once == [n]
        at_once.clear()

    async with working(db, handler("step", step)):
        ids = await put(db, *[NewJob("step", {"n": n}, key="table:x") for n in range(8)])
        await state_is(db, ids[-1], "succeeded", "failed")
    assert order == list(range(8))


async def test_a_failed_strict_key_holds_the_jobs_behind_it_until_released(db: Database) -> None:
    from ingestd.access.roles import Actor
    from ingestd.jobs.actions import retry_job

    broken = [True]

    async def step(ctx: Context, n: int) -> Discard | None:
        return Discard("bad") if n == 0 and broken[0] else None

    async with working(db, handler("step", step)):
        first, second = await put(db, *[NewJob("step", {"n": n}, key="k", key_strict=True) for n in range(2)])
        await state_is(db, first, "failed")
        held = await eventually(lambda: _reason(db, second))
        assert f"job {first} before it failed" in held
        broken[0] = False
        async with db.services() as conn:
            await retry_job(conn, Actor("me", "operator", "cli"), first)
        await state_is(db, second, "succeeded")
        await state_is(db, first, "succeeded")


async def _reason(db: Database, job_id: int) -> str | None:
    return (await job(db, job_id))["reason"]


async def test_drain_hands_back_what_is_left_without_spending_an_attempt(db: Database) -> None:
    started = asyncio.Event()

    async def endless(ctx: Context) -> None:
        started.set()
        await asyncio.Event().wait()

    async with working(db, handler("endless", endless)) as bench:
        (job_id,) = await put(db, NewJob("endless"))
        await started.wait()
        assert await bench.worker.drain(0.05, asyncio.Event()) == 1
        found = await job(db, job_id)
    assert (found["state"], found["attempt"]) == ("available", 0)


async def test_drain_lets_running_jobs_finish(db: Database) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def patient(ctx: Context) -> None:
        started.set()
        await go_on.wait()

    async with working(db, handler("patient", patient)) as bench:
        (job_id,) = await put(db, NewJob("patient"))
        await started.wait()
        draining = asyncio.create_task(bench.worker.drain(30, asyncio.Event()))
        go_on.set()
        assert await draining == 0
        assert (await job(db, job_id))["state"] == "succeeded"


@pytest.mark.parametrize("running", [True, False])
async def test_cancel_ends_a_waiting_and_a_running_job(db: Database, running: bool) -> None:
    started = asyncio.Event()

    async def endless(ctx: Context) -> None:
        started.set()
        await asyncio.Event().wait()

    async with working(db, handler("endless", endless), slots={"default": 1 if running else 0}):
        (job_id,) = await put(db, NewJob("endless"))
        if running:
            await started.wait()
        async with db.services() as conn:
            await cancel_job(conn, Actor("me", "operator", "cli"), job_id)
            assert await conn.fetchval("select count(*) from ingestd.audit where action = 'cancel'") == 1
        await state_is(db, job_id, "cancelled")


async def test_a_job_of_an_unknown_kind_waits_and_says_why(db: Database) -> None:
    async def known(ctx: Context) -> None: ...

    async with working(db, handler("known", known)):
        stranger, friend = await put(db, NewJob("unknown_kind"), NewJob("known"))
        await state_is(db, friend, "succeeded")
        found = await job(db, stranger)
    assert (found["state"], found["reason"].split(" the kind")[0]) == ("available", "no live node knows")
