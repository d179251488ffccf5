"""What Postgres cannot store about one job must not keep the others from being acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import Discard, Done, NewJob, Retry, Snooze
from ingestd.jobs.registry import HandlerSpec
from ingestd.jobs.store.reads import show_job
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from ingestd.work.synchronous import SyncContext
from tests.support import eventually
from tests.work import elsewhere
from tests.work.conftest import handler, working


async def nul_in_error(ctx: Context) -> None:
    raise ValueError("a\0b")


async def half_a_character_in_error(ctx: Context) -> None:
    raise ValueError("a\ud800b")


async def half_a_character_in_reason(ctx: Context) -> Discard:
    return Discard("a\ud800b")


async def half_a_character_in_result(ctx: Context) -> Done:
    return Done({"name": "a\ud800b"})


async def number_beyond_json(ctx: Context) -> Done:
    return Done({"n": 10**200_000})


async def number_beyond_a_double(ctx: Context) -> Done:
    return Done({"n": 10**400, "kept": 10**30, "none": float("inf")})


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


async def mute(ctx: Context) -> None:
    raise Mute


class Nameless(type):
    @property
    def __name__(cls) -> str:
        raise RuntimeError("no name")


class Unspeakable(Exception, metaclass=Nameless):
    pass


async def unspeakable(ctx: Context) -> None:
    raise Unspeakable


class Fatal(Exception):
    def __str__(self) -> str:
        raise SystemExit("the end of the daemon")


async def fatal(ctx: Context) -> None:
    raise Fatal


class Stopping(StopIteration):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def stopping(ctx: SyncContext) -> None:
    raise Stopping


async def circle(ctx: Context) -> Done:
    round_and_round: list[Any] = []
    round_and_round.append(round_and_round)
    return Done(round_and_round)


async def strange_keys(ctx: Context) -> Done:
    return Done({(1, 2): 3})


async def beyond_the_calendar(ctx: Context) -> Snooze:
    return Snooze(timedelta(days=900_000_000))


async def nul_in_retry(ctx: Context) -> Retry:
    return Retry(after="1h", reason="a\0\ud800b")


@pytest.mark.parametrize(
    ("run", "state"),
    [
        (nul_in_error, "failed"),
        (half_a_character_in_error, "failed"),
        (half_a_character_in_reason, "failed"),
        (half_a_character_in_result, "succeeded"),
        (number_beyond_json, "succeeded"),
        (number_beyond_a_double, "succeeded"),
        (mute, "failed"),
        (unspeakable, "failed"),
        (circle, "succeeded"),
        (strange_keys, "succeeded"),
        (beyond_the_calendar, "failed"),
        (nul_in_retry, None),
    ],
)
async def test_an_ending_that_cannot_be_stored_as_it_is_keeps_no_other_job(
    db: Database, run: Callable[..., Awaitable[Any]], state: str | None
) -> None:
    async def nothing(ctx: Context) -> None: ...

    attempts = 2 if state is None else 1
    async with working(db, handler("odd", run, max_attempts=attempts), handler("plain", nothing, max_attempts=1)):
        async with db.services() as conn:
            (odd,) = await enqueue(conn, [NewJob("odd")])
            plain = await enqueue(conn, [NewJob("plain") for _ in range(20)])

        async def settled() -> bool:
            async with db.services() as look:
                done = {row["id"]: row["state"] for row in await look.fetch("select id, state from ingestd.history")}
                waits = await look.fetchval("select claim is null from ingestd.job where id = $1", odd)
            return all(done.get(job_id) == "succeeded" for job_id in plain) and (waits if state is None else done.get(odd) == state)

        await eventually(settled)


async def test_a_result_with_a_number_that_no_double_holds_can_be_read_again(db: Database) -> None:
    async with working(db, handler("odd", number_beyond_a_double, max_attempts=1)):
        async with db.services() as conn:
            (odd,) = await enqueue(conn, [NewJob("odd")])

        async def done() -> Any:
            async with db.services() as look:
                return await show_job(look, odd) if await look.fetchval("select true from ingestd.history where id = $1", odd) else None

        shown = await eventually(done)
    assert shown["result"] == {"n": None, "kept": 1e30, "none": None}


async def test_what_is_kept_of_an_exception_is_capped_its_class_too(db: Database) -> None:
    async def long_named(ctx: Context) -> None:
        raise type("N" * 100_000, (Exception,), {})("x" * 100_000)

    async with working(db, handler("odd", long_named, max_attempts=1)):
        async with db.services() as conn:
            (odd,) = await enqueue(conn, [NewJob("odd")])

        async def kept() -> Any:
            async with db.services() as look:
                return await look.fetchval("select error from ingestd.history where id = $1", odd)

        error = await eventually(kept)
    assert (error["class"], error["message"]) == ("N" * 200, "x" * 2000)


@pytest.mark.parametrize("run", [mute, unspeakable, fatal, stopping])
async def test_an_exception_that_cannot_be_told_spends_its_attempts_and_no_slot(db: Database, run: Callable[..., Any]) -> None:
    async def nothing(ctx: Context) -> None: ...

    async with working(db, handler("odd", run, max_attempts=1), handler("plain", nothing), slots={"default": 2}):
        async with db.services() as conn:
            odd = await enqueue(conn, [NewJob("odd") for _ in range(6)])
            (plain,) = await enqueue(conn, [NewJob("plain")])

        async def ended() -> bool:
            async with db.services() as look:
                done = {row["id"]: row["state"] for row in await look.fetch("select id, state from ingestd.history")}
            return done.get(plain) == "succeeded" and all(done.get(job_id) == "failed" for job_id in odd)

        await eventually(ended)


async def test_a_handler_that_cancels_its_own_task_has_failed_and_is_not_tried_for_ever(db: Database) -> None:
    async def gives_up(ctx: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    async def waits(ctx: Context) -> str:
        await asyncio.sleep(0.05)
        return "waited"

    async with working(db, handler("odd", gives_up, max_attempts=1), handler("waits", waits, max_attempts=1), slots={"default": 1}):
        async with db.services() as conn:
            odd = await enqueue(conn, [NewJob("odd") for _ in range(3)])
            (after,) = await enqueue(conn, [NewJob("waits")])

        async def ended() -> bool:
            async with db.services() as look:
                done = {row["id"]: row["state"] for row in await look.fetch("select id, state from ingestd.history")}
            return done.get(after) == "succeeded" and all(done.get(job_id) == "failed" for job_id in odd)

        await eventually(ended)


@pytest.mark.parametrize("spec", [elsewhere.strange_async.spec, elsewhere.strange_thread.spec, elsewhere.strange_process.spec])
async def test_work_that_is_done_is_not_done_again_because_its_result_cannot_be_kept_wherever_it_was_done(
    db: Database, spec: HandlerSpec
) -> None:
    whys = {"circle": "Circular reference detected", "keys": "keys must be str", "mute": "the text of a Mute raises RuntimeError"}
    async with db.services() as conn:
        await conn.execute("create table effect (n int)")
    async with working(db, spec):
        for how, why in whys.items():
            for within in (False, True):
                async with db.services() as conn:
                    (job_id,) = await enqueue(conn, [NewJob(spec.kind, {"how": how, "within": within})])

                async def ended(job_id: int = job_id) -> Any:
                    async with db.services() as look:
                        return await look.fetchrow("select state, attempt, result, reason from ingestd.history where id = $1", job_id)

                state, attempt, result, reason = await eventually(ended)
                assert (state, attempt, result) == ("succeeded", 1, None)
                assert reason.startswith(f"its result could not be stored: {why}")
    async with db.services() as conn:
        assert await conn.fetchval("select count(*) from effect") == len(whys)
