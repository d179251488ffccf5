"""A job whose connection is lost has not failed; one that ends its own each time has."""

from __future__ import annotations

from ingestd.jobs.model import NewJob
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from tests.work.conftest import handler, working
from tests.work.test_worker import put, state_is

END_MYSELF = "select pg_terminate_backend(pg_backend_pid())"


async def test_a_job_that_ends_its_own_session_each_time_fails_in_the_end(db: Database) -> None:
    async def ends_itself(ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute(END_MYSELF)

    async with working(db, handler("ends_itself", ends_itself, max_attempts=1)):
        (job_id,) = await put(db, NewJob("ends_itself", max_attempts=1))
        done = await state_is(db, job_id, "failed")
    assert done["error"]["class"] == "ConnectionLost"


async def test_a_job_whose_session_is_ended_now_and_then_spends_nothing(db: Database) -> None:
    runs: list[int] = []

    async def cut_off_twice(ctx: Context) -> None:
        runs.append(ctx.job.attempt)
        async with ctx.transaction() as conn:
            if len(runs) < 3:
                await conn.execute(END_MYSELF)

    async with working(db, handler("cut_off_twice", cut_off_twice)):
        (job_id,) = await put(db, NewJob("cut_off_twice"))
        done = await state_is(db, job_id, "succeeded")
    assert (done["attempt"], runs) == (1, [1, 1, 1])
