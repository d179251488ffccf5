"""Handlers in processes of their own: what they can do, and what they cannot do to others."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from typing import Any

import pytest

from ingestd.children import STOP_TIMEOUT_S
from ingestd.errors import ConfigurationError
from ingestd.events import JobFinished, JobRetrying, Notice
from ingestd.jobs.decorator import JobFunction
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.lifespan import lifespan_of
from ingestd.jobs.model import NewJob
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store.reads import show_job
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from ingestd.work.runner import Interrupted
from tests.faults import processes
from tests.support import eventually
from tests.work import elsewhere
from tests.work.conftest import Workbench, handler, working


async def put(db: Database, kind: str, args: dict[str, Any] | None = None) -> int:
    async with db.services() as conn:
        (job_id,) = await enqueue(conn, [NewJob(kind, args or {})])
    return job_id


async def final(db: Database, job_id: int) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        async with db.services() as conn:
            found = await show_job(conn, job_id)
        assert found is not None
        return found if found["finished_at"] else None

    return await eventually(look, saying=f"job {job_id} is final")


def children(bench: Workbench) -> list[int]:
    return bench.worker._places.executors["process"].pids  # type: ignore[attr-defined]


def said(bench: Workbench) -> list[str]:
    return [event.message for event in bench.events if isinstance(event, Notice)]


async def child(ctx: Context, row: int) -> None: ...


async def test_a_child_stays_for_the_next_job_and_is_replaced_after_so_many(db: Database) -> None:
    async with working(db, elsewhere.where.spec) as bench:
        pids = [(await final(db, await put(db, "where", {"text": "x"})))["result"]["pid"] for _ in range(3)]
        assert pids[0] == pids[1] != pids[2]
        assert os.getpid() not in pids
        await eventually(lambda: children(bench) == [pids[2]])
    await eventually(lambda: not _lives(pids[2]))


async def test_resources_are_made_once_in_each_child_and_closed_with_it(db: Database) -> None:
    async with working(db, elsewhere.where.spec) as bench:
        done = await final(db, await put(db, "where"))
        await final(db, await put(db, "where"))
        assert done["result"]["shared"] == done["result"]["pid"]
        await eventually(lambda: "where: resources closed" in said(bench))
        assert said(bench).count("where: resources opened") == 1


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_rows_follow_ups_and_completion_of_a_child_commit_together(db: Database) -> None:
    async with db.services() as conn:
        await conn.execute("create table effect (n int)")
    async with working(db, elsewhere.writes.spec, handler("child", child)):
        done = await final(db, await put(db, "writes", {"row": 7}))
        assert (done["state"], done["counts"]["rejected"]) == ("succeeded", 1)
        assert done["result"]["row"] == 7
        async with db.services() as conn:
            assert await conn.fetchval("select partial from ingestd.history where id = $1", int(done["id"]))
            assert await conn.fetchval("select rejects from ingestd.history where id = $1", int(done["id"])) == [
                {"item": {"row": 7}, "reason": "too large"}
            ]
            follow_up = await eventually(lambda: conn.fetchrow("select * from ingestd.history where kind = 'child'"))
        assert follow_up["parent_id"] == int(done["id"])


async def test_a_plain_function_has_transactions_and_steps_without_await(db: Database) -> None:
    async with db.services() as conn:
        await conn.execute("create table effect (n int)")
    async with working(db, elsewhere.writes_sync.spec, handler("child", child)):
        done = await final(db, await put(db, "writes_sync", {"row": 7}))
    assert (done["state"], done["result"]) == ("succeeded", {"rows": 3})


@pytest.mark.parametrize(
    ("how", "error"), [("retry", "Retry"), ("raise", "ValueError"), ("exit", "SystemExit"), ("half a character", "FileNotFoundError")]
)
async def test_what_a_child_wants_or_raises_is_what_becomes_of_its_job(db: Database, how: str, error: str) -> None:
    async with working(db, elsewhere.asks.spec):
        done = await final(db, await put(db, "asks", {"how": how}))
    assert (done["state"], done["attempt"]) == ("succeeded", 2)
    assert done["attempts"][0]["error"]["class"] == error


async def test_discard_in_a_child_fails_at_once(db: Database) -> None:
    async with working(db, elsewhere.asks.spec):
        done = await final(db, await put(db, "asks", {"how": "discard"}))
    assert (done["state"], done["attempt"], done["reason"]) == ("failed", 1, "never")


async def test_a_measured_attempt_keeps_its_time_and_memory(db: Database) -> None:
    async with working(db, elsewhere.measured.spec):
        done = await final(db, await put(db, "measured"))
    (attempt,) = done["attempts"]
    assert attempt["cpu_ms"] >= 90
    assert attempt["peak_rss_mb"] >= 60


async def test_a_child_that_is_killed_fails_its_own_attempt_alone(db: Database) -> None:
    async with working(db, elsewhere.dies.spec, elsewhere.waits.spec) as bench:
        other = await put(db, "waits")
        await eventually(lambda: _progress(bench, other))
        done = await final(db, await put(db, "dies"))
        assert (done["state"], done["attempt"]) == ("failed", 2)
        assert (done["error"]["class"], done["error"]["message"]) == ("ProcessDied", "signal 9")
        assert other in bench.worker.running_jobs()


def _progress(bench: Workbench, job_id: int) -> str:
    running = bench.worker.running_jobs().get(job_id)
    return (running.ctx.shown or {}).get("text", "") if running else ""


async def test_a_kill_from_outside_is_retried_by_the_rules(db: Database) -> None:
    async with working(db, elsewhere.waits.spec) as bench:
        job_id = await put(db, "waits")
        text = await eventually(lambda: _progress(bench, job_id))
        os.kill(int(text.split()[1]), signal.SIGKILL)
        done = await final(db, job_id)
    assert (done["state"], done["result"]) == ("succeeded", {"attempt": 2})
    assert done["attempts"][0]["error"]["message"] == "signal 9"


async def test_a_child_that_dies_after_its_commit_has_done_its_job(db: Database) -> None:
    async with db.services() as conn:
        await conn.execute("create table effect (n int)")
    async with working(db, elsewhere.dies_late.spec) as bench:
        done = await final(db, await put(db, "dies_late"))
        finished = await eventually(lambda: [event for event in bench.events if isinstance(event, JobFinished)])
    assert (done["state"], done["result"]) == ("succeeded", {"rows": 1})
    assert finished[0].state == "succeeded"
    assert not any(isinstance(event, JobRetrying) for event in bench.events)


async def test_a_segfault_keeps_the_stack_it_happened_in(db: Database) -> None:
    async with working(db, elsewhere.dies.spec):
        done = await final(db, await put(db, "dies", {"number": int(signal.SIGSEGV)}))
    assert done["error"]["message"] == "signal 11"
    assert "in dies" in done["error"]["traceback"]


@pytest.mark.parametrize("how", [elsewhere.eats, elsewhere.maps])
async def test_a_child_that_needs_too_much_memory_is_told_of_its_limit(db: Database, how: JobFunction[..., None]) -> None:
    async with working(db, how.spec):
        done = await final(db, await put(db, how.spec.kind))
    assert (done["error"]["class"], done["error"]["message"]) == ("MemoryLimit", "it needed more than its memory_limit of 150 MB")


async def test_a_busy_loop_in_c_delays_nobody_and_is_killed_at_its_hard_timeout(db: Database) -> None:
    stacks: list[str] = []

    async def quick(ctx: Context) -> None: ...

    async with working(db, elsewhere.busy.spec, handler("quick", quick)) as bench:
        job_id = await put(db, "busy")
        await eventually(lambda: _progress(bench, job_id))
        await final(db, await put(db, "quick"))
        running = bench.worker.running_jobs().get(job_id)
        assert running is not None, "the other job had to wait for the busy one"
        stacks.append(await running.stack())
        done = await final(db, job_id)
    assert done["error"]["class"] == "HardTimeout"
    assert "in busy" in stacks[0]


async def test_a_child_that_does_not_say_where_it_is_holds_up_no_loop(db: Database) -> None:
    async with working(db, elsewhere.waits.spec) as bench:
        job_id = await put(db, "waits")
        await eventually(lambda: _progress(bench, job_id))
        (pid,) = children(bench)
        os.kill(pid, signal.SIGSTOP)
        asked, turns = asyncio.create_task(bench.worker.running_jobs()[job_id].stack()), 0
        while not asked.done():
            await asyncio.sleep(0.005)
            turns += 1
        os.kill(pid, signal.SIGCONT)
        assert (await asked, turns > 5) == ("", True)


async def test_a_child_that_ignores_its_timeout_is_killed_after_a_grace(db: Database) -> None:
    async with working(db, elsewhere.deaf.spec) as bench:
        bench.worker._places.executors["process"].grace_s = 0.3  # type: ignore[attr-defined]
        done = await final(db, await put(db, "deaf"))
    assert done["error"]["class"] == "TimedOut"
    assert "killed" in done["error"]["message"]


@pytest.mark.parametrize("killed", [True, False], ids=["it-died", "it-was-cancelled"])
async def test_what_a_killed_child_has_started_ends_with_it_and_at_once(db: Database, killed: bool) -> None:
    async with working(db, elsewhere.starts_others.spec) as bench:
        bench.worker._places.executors["process"].grace_s = 0.1  # type: ignore[attr-defined]
        job_id = await put(db, "starts_others", {"killed": killed})
        other: list[int] = []

        def started() -> bool:
            running = bench.worker.running_jobs().get(job_id)
            if running is not None and running.ctx.shown:
                other.append(int(running.ctx.shown["text"]))
            return bool(other)

        await eventually(started, every_s=0.001)
        began = time.monotonic()
        if not killed:
            bench.worker.interrupt(job_id, Interrupted.CANCEL)
        await final(db, job_id)
        await eventually(lambda: not processes.running(other[0]))
        # Whoever is heard of on stderr would be waited for.
        assert time.monotonic() - began < STOP_TIMEOUT_S


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_program_that_a_handler_has_started_hears_signals_that_its_process_leaves_to_the_daemon(
    db: Database, number: signal.Signals
) -> None:
    async with working(db, elsewhere.ends_another.spec):
        done = await final(db, await put(db, "ends_another", {"number": number}))
    assert (done["state"], done["result"]) == ("succeeded", -number), done["error"]


async def test_a_plain_function_that_checks_ends_at_its_timeout(db: Database) -> None:
    async with working(db, elsewhere.listens.spec) as bench:
        done = await final(db, await put(db, "listens"))
        assert len(children(bench)) == 1
    assert (done["error"]["class"], done["error"]["message"]) == ("TimedOut", "timed out after 300ms")


@pytest.mark.parametrize(("why", "state"), [(Interrupted.CANCEL, "cancelled"), (Interrupted.STUCK, "succeeded")])
async def test_a_job_in_a_child_is_cancelled_and_found_stuck_like_any_other(db: Database, why: str, state: str) -> None:
    async with working(db, elsewhere.waits.spec) as bench:
        job_id = await put(db, "waits")
        await eventually(lambda: _progress(bench, job_id))
        assert bench.worker.interrupt(job_id, why)
        done = await final(db, job_id)
    assert done["state"] == state
    if why == Interrupted.STUCK:
        assert done["attempts"][0]["error"]["class"] == "stuck"


async def test_drain_hands_back_what_a_child_still_does_and_leaves_no_process(db: Database) -> None:
    async with working(db, elsewhere.waits.spec) as bench:
        job_id = await put(db, "waits")
        await eventually(lambda: _progress(bench, job_id))
        pids = children(bench)
        assert await bench.worker.drain(0.05, asyncio.Event()) == 1
        async with db.services() as conn:
            found = await show_job(conn, job_id)
    assert found is not None
    assert (found["state"], found["attempt"]) == ("available", 0)
    assert not any(map(_lives, pids))


async def test_a_child_reads_pydantic_models_and_quarantines_what_is_none(db: Database) -> None:
    async with working(db, elsewhere.ships.spec):
        good = await final(db, await put(db, "ships", {"order": {"number": 5}}))
        bad = await final(db, await put(db, "ships", {"order": {"number": "x"}}))
    assert good["result"] == {"number": 5}
    assert (bad["state"], bad["attempt"], bad["error"]["class"]) == ("failed", 1, "ArgumentsDoNotFit")


async def test_a_handler_that_no_process_can_import_is_refused_at_the_start(db: Database) -> None:
    async def inside(ctx: Context) -> None: ...

    with pytest.raises(ConfigurationError, match="declare it at the top of a module"):
        async with working(db, HandlerSpec("inside", inside, executor="process")):
            pass


def test_the_lifespan_of_a_module_is_found_by_its_handlers() -> None:
    assert lifespan_of(elsewhere.__name__) is elsewhere.resources


async def test_a_job_that_ended_in_a_process_is_forgotten_without_the_collector(db: Database) -> None:
    def contexts() -> int:
        return sum(isinstance(each, Context) for each in gc.get_objects())

    gc.collect()
    before = contexts()
    gc.disable()
    try:
        async with working(db, elsewhere.where.spec, slots={"default": 1}):
            for job_id in [await put(db, "where") for _ in range(6)]:
                await final(db, job_id)
            assert contexts() < before + 3
    finally:
        gc.enable()
