"""What a handler is given, and what becomes of what it tells."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from ingestd import JobCancelled, SyncContext, job
from ingestd.errors import InvalidInput
from ingestd.jobs.backoff import Backoff
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import Discard, NewJob, Retry, Snooze
from ingestd.jobs.store.reads import show_job
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from tests.support import eventually
from tests.work.conftest import handler, working


async def put(db: Database, kind: str, args: dict[str, Any] | None = None, **options: Any) -> int:
    async with db.services() as conn:
        (job_id,) = await enqueue(conn, [NewJob(kind, args or {}, **options)])
    return job_id


async def final(db: Database, job_id: int) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        async with db.services() as conn:
            row = await conn.fetchrow("select * from ingestd.history where id = $1", job_id)
        return dict(row) if row else None

    return await eventually(look, saying=f"job {job_id} is final")


async def nothing(ctx: Context, **args: Any) -> None: ...


async def test_rejected_items_are_kept_short_counted_and_make_the_job_partial(db: Database) -> None:
    async def picky(ctx: Context) -> None:
        ctx.count(succeeded=3)
        ctx.reject({"row": 1}, "no date")
        ctx.reject("x" * 10_000, "y" * 10_000)
        for n in range(1500):
            ctx.reject(n, "more")

    async with working(db, handler("picky", picky)):
        done = await final(db, await put(db, "picky"))
    assert (done["state"], done["partial"]) == ("succeeded", True)
    assert done["counts"] == {"succeeded": 3, "failed": 0, "skipped": 0, "rejected": 1502}
    assert len(done["rejects"]) == 1000
    assert done["rejects"][0] == {"item": {"row": 1}, "reason": "no date"}
    assert len(str(done["rejects"][1])) < 2048


async def test_rejects_are_kept_where_the_handler_commits_by_itself(db: Database) -> None:
    async def picky(ctx: Context) -> None:
        async with ctx.transaction():
            ctx.reject([1, 2], "odd")

    async with working(db, handler("picky", picky)):
        done = await final(db, await put(db, "picky"))
    assert (done["partial"], done["rejects"]) == (True, [{"item": [1, 2], "reason": "odd"}])


async def test_a_handler_knows_its_deadline(db: Database) -> None:
    seen: list[tuple[datetime | None, float | None]] = []

    async def look(ctx: Context) -> None:
        seen.append((ctx.deadline, ctx.remaining))

    async with working(db, handler("look", look, timeout=timedelta(minutes=5)), handler("free", look)):
        await final(db, await put(db, "free"))
        await final(db, await put(db, "look"))
        await final(db, await put(db, "look", hard_timeout=timedelta(minutes=1)))
        await final(db, await put(db, "look", timeout=timedelta(hours=1)))
    free, kinds, hard, rows = seen
    assert free == (None, None)
    assert kinds[0] is not None
    assert abs((kinds[0] - datetime.now(UTC)).total_seconds() - 300) < 60
    assert [round((left or 0) / 60) for _, left in (kinds, hard, rows)] == [5, 1, 60]


async def test_the_backoff_of_a_jobs_row_wins_over_its_kinds(db: Database) -> None:
    async def flaky(ctx: Context) -> None:
        if ctx.job.attempt == 1:
            raise ValueError("not yet")

    async with working(db, handler("flaky", flaky, backoff=Backoff("1h"))):
        done = await final(db, await put(db, "flaky", backoff=Backoff("10ms", jitter=0).to_json()))
    assert done["state"] == "succeeded"


async def test_follow_ups_know_their_parent_and_what_they_belong_to(db: Database) -> None:
    @job("declared", priority="high")
    async def declared(ctx: Context, n: int = 0) -> None: ...

    ids: list[int] = []

    async def parent(ctx: Context) -> None:
        ids.append(await ctx.enqueue("child", {"n": 1}, tags=["x"]))
        ids.append(await ctx.enqueue(declared, {"n": 2}))
        ids.extend(await ctx.enqueue(NewJob("child"), NewJob("child", parent_id=77)))
        with pytest.raises(TypeError):
            await ctx.enqueue(declared, {"m": 2})
        with pytest.raises(InvalidInput, match="chidl"):
            await ctx.enqueue("chidl")

    async with working(db, handler("parent", parent), handler("child", nothing), declared.spec):
        parent_id = await put(db, "parent", correlation_id="c-1")
        assert (await final(db, parent_id))["state"] == "succeeded"
        found = [await final(db, job_id) for job_id in ids]
    assert [row["parent_id"] for row in found] == [parent_id, parent_id, parent_id, 77]
    assert {row["correlation_id"] for row in found} == {"c-1"}
    assert found[0]["tags"] == ["x"]
    assert found[1]["rank"] == -10


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (({"n": 1}, {"n": 2}), "attempt 1 of 1: ctx.enqueue() takes one JSON object of arguments after the kind"),
        ((5,), "the arguments must be an object, not 5"),
        (("ab",), "the arguments must be an object, not a string"),
        ((None,), None),
    ],
)
async def test_a_follow_up_takes_one_object_of_arguments(db: Database, given: tuple[Any, ...], said: str | None) -> None:
    async def first(ctx: Context) -> None:
        await ctx.enqueue("second", *given)

    async with working(db, handler("first", first, max_attempts=1), handler("second", nothing)):
        done = await final(db, await put(db, "first"))
    assert done["state"] == ("succeeded" if said is None else "failed")
    assert said is None or said in done["reason"]


async def test_a_plain_function_has_the_whole_context_without_await(db: Database) -> None:
    def plain(ctx: SyncContext, n: int) -> None:
        ctx.progress(0.5, "half")
        with ctx.transaction() as conn:
            conn.execute("insert into effect values ($1)", n)
            ctx.enqueue("child", {"n": n}, conn=conn)
            ctx.result = conn.fetchval("select sum(n)::integer from effect")

    def failing(ctx: SyncContext) -> None:
        with ctx.transaction() as conn:
            conn.execute("insert into effect values (1000)")
            raise ValueError("rolled back")

    async with db.services() as conn:
        await conn.execute("create table effect (n bigint)")
    specs = handler("plain", plain, executor="thread"), handler("failing", failing, executor="thread", max_attempts=1)
    async with working(db, *specs, handler("child", nothing)):
        await final(db, await put(db, "failing"))
        done = await final(db, await put(db, "plain", {"n": 4}))
        assert (done["state"], done["result"]) == ("succeeded", 4)
        async with db.services() as conn:
            await eventually(lambda: conn.fetchval("select true from ingestd.history where kind = 'child' and parent_id = $1", done["id"]))


async def test_threads_are_measured(db: Database) -> None:
    def spin(ctx: SyncContext) -> None:
        sum(range(3_000_000))

    async with working(db, handler("spin", spin, executor="thread")):
        done = await final(db, await put(db, "spin"))
    assert done["attempts"][0]["cpu_ms"] > 5


async def test_a_plain_first_success_keeps_no_attempt(db: Database) -> None:
    async with working(db, handler("nothing", nothing)):
        assert (await final(db, await put(db, "nothing")))["attempts"] == []


async def test_more_threads_than_processors_run_at_once(db: Database) -> None:
    all_here = threading.Barrier(16, timeout=90)

    def meet(ctx: SyncContext) -> None:
        all_here.wait()

    async with working(db, handler("meet", meet, executor="thread", max_attempts=1)):
        done = [await final(db, job_id) for job_id in [await put(db, "meet") for _ in range(16)]]
    assert {row["state"] for row in done} == {"succeeded"}


async def test_a_thread_that_checks_ends_when_it_is_cancelled_or_over_its_time(db: Database) -> None:
    def patient(ctx: SyncContext) -> None:
        while not ctx.cancelled:
            threading.Event().wait(0.01)
        ctx.check()

    spec = handler("patient", patient, executor="thread", timeout=timedelta(milliseconds=100), max_attempts=1)
    async with working(db, spec, handler("free", patient, executor="thread")) as bench:
        late = await final(db, await put(db, "patient"))
        free = await put(db, "free")
        await eventually(lambda: free in bench.worker.running_jobs())
        bench.worker.interrupt(free, "cancel")
        assert (await final(db, free))["state"] == "cancelled"
    assert (late["state"], late["error"]["class"]) == ("failed", "TimedOut")


async def test_the_check_of_a_job_that_nobody_told_to_end_does_nothing() -> None:
    ctx = Context.__new__(Context)
    ctx.check()
    ctx.cancelled = True
    with pytest.raises(JobCancelled):
        ctx.check()


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), BaseException("odd"), KeyboardInterrupt(), GeneratorExit()])
async def test_whatever_a_handler_raises_ends_its_own_attempt_and_not_the_worker(db: Database, error: BaseException) -> None:
    async def odd(ctx: Context) -> None:
        raise error

    async with working(db, handler("odd", odd, max_attempts=1), handler("nothing", nothing), slots={"default": 1}):
        done = await final(db, await put(db, "odd"))
        assert (done["state"], done["error"]["class"]) == ("failed", type(error).__name__)
        assert (await final(db, await put(db, "nothing")))["state"] == "succeeded"


@pytest.mark.parametrize("error", [StopIteration(1), GeneratorExit(), KeyboardInterrupt()])
async def test_whatever_a_thread_raises_ends_its_own_attempt_and_not_its_slot(db: Database, error: BaseException) -> None:
    def odd(ctx: SyncContext) -> None:
        raise error

    async with working(db, handler("odd", odd, executor="thread", max_attempts=1), handler("nothing", nothing), slots={"default": 1}):
        done = await final(db, await put(db, "odd"))
        assert done["state"] == "failed"
        assert type(error).__name__ in str(done["error"])
        assert (await final(db, await put(db, "nothing")))["state"] == "succeeded"


@pytest.mark.parametrize("far", [Snooze("9999999d"), Retry("9999999d")])
async def test_a_handler_cannot_put_its_job_behind_the_end_of_the_calendar(db: Database, far: Snooze | Retry) -> None:
    async def odd(ctx: Context) -> Snooze | Retry:
        return far

    async with working(db, handler("odd", odd, max_attempts=2, backoff=Backoff(0.01))):
        done = await final(db, await put(db, "odd"))
    assert (done["state"], done["attempt"]) == ("failed", 2)
    assert f"{type(far).__name__} for longer than 100 years" in str(done["error"])


async def test_a_job_queued_under_an_old_name_is_run_and_keeps_that_name(db: Database) -> None:
    async def renamed(ctx: Context, supplier: str, limit: int = 5) -> dict[str, Any]:
        return {"supplier": supplier, "limit": limit}

    old = await put(db, "old_name", {"supplier": "acme"})
    unfit = await put(db, "old_name", {"suplier": "acme"})
    async with working(db, handler("new_name", renamed, aliases=("old_name",))):
        done, bad = await final(db, old), await final(db, unfit)
        async with db.services() as conn:
            shown = await show_job(conn, old)
            published = await conn.fetchrow("select aliases, arguments from ingestd.kind where name = 'new_name'")
    assert (done["kind"], done["result"]) == ("old_name", {"supplier": "acme", "limit": 5})
    assert (bad["state"], bad["attempt"], bad["error"]["class"]) == ("failed", 1, "ArgumentsDoNotFit")
    assert shown is not None
    assert published["aliases"] == ["old_name"]
    assert published["arguments"]["required"] == ["supplier"]


async def test_a_discarded_transaction_fails_the_job_with_its_rows(db: Database) -> None:
    async def give_up(ctx: Context) -> Discard | None:
        async with ctx.transaction() as conn:
            await conn.execute("create table effect (n int)")
            ctx.discard("no use")
        return None

    async with working(db, handler("give_up", give_up)):
        done = await final(db, await put(db, "give_up"))
        async with db.services() as conn:
            assert await conn.fetchval("select to_regclass('effect') is not null")
    assert (done["state"], done["reason"]) == ("failed", "no use")


async def test_a_handler_that_commits_by_hand_in_its_transaction_is_told_so(db: Database) -> None:
    async def meddles(ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute("commit")

    async with working(db, handler("meddles", meddles, max_attempts=1)):
        done = await final(db, await put(db, "meddles"))
    assert (done["state"], done["error"]["class"]) == ("failed", "RuntimeError")
    assert "ended the transaction itself" in done["error"]["message"]


async def test_an_outcome_that_comes_after_the_transaction_has_completed_the_job_is_told(db: Database) -> None:
    async def too_late(ctx: Context) -> Retry:
        async with ctx.transaction():
            return Retry(after="1m")

    with capture_logs() as said:
        async with working(db, handler("late", too_late)):
            done = await final(db, await put(db, "late"))
    assert done["state"] == "succeeded"
    assert [(line["event"], line["returned"]) for line in said if line.get("job_id") == done["id"]] == [
        ("handler asked for more after its transaction had completed the job", repr(Retry(after="1m")))
    ]


async def test_a_message_of_one_word_is_told_with_its_class(db: Database) -> None:
    async def looks_up(ctx: Context) -> None:
        {}["id"]

    async with working(db, handler("looks_up", looks_up, max_attempts=1)):
        done = await final(db, await put(db, "looks_up"))
    assert done["reason"] == "attempt 1 of 1: KeyError: 'id'"


async def test_blocks_that_commit_cannot_stand_inside_of_each_other(db: Database) -> None:
    async def nested(ctx: Context, outer: str, inner: str) -> None:
        def block(name: str) -> Any:
            return ctx.transaction() if name == "transaction" else ctx.step({"at": name})

        async with block(outer), block(inner):
            pass

    def plainly(ctx: SyncContext, outer: str, inner: str) -> None:
        def block(name: str) -> Any:
            return ctx.transaction() if name == "transaction" else ctx.step({"at": name})

        with block(outer), block(inner):
            pass

    pairs = [("transaction", "step"), ("step", "step"), ("step", "transaction")]
    async with working(db, handler("nested", nested, max_attempts=1), handler("plainly", plainly, executor="thread", max_attempts=1)):
        for kind in ("nested", "plainly"):
            for outer, inner in pairs:
                done = await final(db, await put(db, kind, {"outer": outer, "inner": inner}))
                assert (done["state"], done["error"]["class"]) == ("failed", "RuntimeError"), (kind, outer, inner)
                assert "inside" in done["error"]["message"] or "close it" in done["error"]["message"]


async def test_steps_side_by_side_are_no_steps_inside_of_each_other(db: Database) -> None:
    async def pages(ctx: Context) -> None:
        async def page(number: int) -> None:
            async with ctx.step({"page": number}) as conn:
                await conn.execute("select pg_sleep(0.05)")

        await asyncio.gather(*(page(number) for number in range(3)))

    async with working(db, handler("pages", pages, max_attempts=1)):
        assert (await final(db, await put(db, "pages")))["state"] == "succeeded"


@pytest.mark.parametrize(("given", "says"), [("3", "ctx.count(failed=…) takes a whole number"), (None, "ctx.progress() takes a fraction")])
async def test_a_count_or_progress_of_the_wrong_type_says_what_it_takes(db: Database, given: Any, says: str) -> None:
    async def wrong(ctx: Context) -> None:
        if given is None:
            ctx.progress("half")  # type: ignore[arg-type]
        ctx.count(failed=given)

    async with working(db, handler("wrong", wrong, max_attempts=1)):
        done = await final(db, await put(db, "wrong"))
    assert done["error"]["class"] == "TypeError"
    assert says in done["error"]["message"]
