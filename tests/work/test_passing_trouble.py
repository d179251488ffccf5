"""What is wrong with Postgres for a while is no matter of the jobs whose endings it does not take meanwhile."""

from __future__ import annotations

import pytest

from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob, Snooze
from ingestd.jobs.registry import HandlerSpec
from ingestd.postgres.pool import Database
from ingestd.work.context import Context
from tests.support import eventually
from tests.work import elsewhere
from tests.work.conftest import handler, working

# Only what is put back meets it: so does a table that is locked at that moment, and free a moment later.
REFUSE = """
create function public.refuse() returns trigger language plpgsql as $$
begin
  raise exception 'not now' using errcode = '{code}';
end $$;
create trigger refuse before update on ingestd.job for each row when (old.claim is not null and new.claim is null)
execute function public.refuse()"""


# A lock that was not to be had in time, a full disk, a statement that took too long.
@pytest.mark.parametrize("code", ["55P03", "53100", "57014"])
async def test_a_job_that_cannot_be_put_back_for_a_while_waits_and_does_not_fail(db: Database, code: str) -> None:
    async def again(ctx: Context) -> Snooze | None:
        return Snooze("0s") if ctx.job.id not in told and not told.append(ctx.job.id) else None

    told: list[int] = []
    async with db.handlers() as conn, working(db, handler("again", again, max_attempts=1)) as bench:
        await conn.execute(REFUSE.format(code=code))
        (job,) = await enqueue(conn, [NewJob("again")])
        await eventually(lambda: bench.worker.acker.poller.state.failures > 0)
        await conn.execute("drop trigger refuse on ingestd.job")
        ended = await eventually(lambda: conn.fetchrow("select state, attempt, reason from ingestd.history where id = $1", job))
    assert tuple(ended) == ("succeeded", 1, None)


async def test_a_job_whose_own_transaction_finds_no_partition_in_history_is_run_again_and_spends_nothing(db: Database) -> None:
    async def write(ctx: Context) -> None:
        async with ctx.transaction() as own:
            await own.execute("insert into public.done values ($1)", ctx.job.id)

    async with db.handlers() as conn, working(db, handler("write", write, max_attempts=1)):
        await conn.execute("create table public.done (job bigint)")
        for leaf in await conn.fetch("select inhrelid::regclass::text from pg_inherits where inhparent = 'ingestd.history_ok'::regclass"):
            await conn.execute(f"drop table {leaf[0]}")
        (job,) = await enqueue(conn, [NewJob("write")])
        ended = await eventually(lambda: conn.fetchrow("select state, attempt, reason from ingestd.history where id = $1", job))
        assert tuple(ended) == ("succeeded", 1, None)
        assert await conn.fetchval("select count(*) from public.done") == 1


@pytest.mark.parametrize("code", ["53100", "53200"])
@pytest.mark.parametrize("spec", [elsewhere.finds_it_full.spec, elsewhere.finds_it_full_far_away.spec])
async def test_a_job_for_which_postgres_has_no_disk_or_memory_left_waits_and_spends_nothing(
    db: Database, spec: HandlerSpec, code: str
) -> None:
    waits = "select attempt from ingestd.job where id = $1 and claim is null and run_at > now() + interval '15 s'"
    async with db.handlers() as conn, working(db, spec):
        (job,) = await enqueue(conn, [NewJob(spec.kind, {"code": code})])

        async def handed_back() -> bool:
            return await conn.fetchval(waits, job) == 0

        await eventually(handed_back)


async def test_a_job_that_finds_the_disk_full_time_after_time_fails_in_the_end(db: Database) -> None:
    async with db.handlers() as conn, working(db, elsewhere.finds_it_full.spec) as bench:
        (job,) = await enqueue(conn, [NewJob("finds_it_full", {"code": "53100"})])

        async def failed() -> bool:
            # Whoever mends it does not wait either.
            await conn.execute("update ingestd.job set run_at = now() where claim is null")
            bench.worker.wake()
            error = await conn.fetchval("select error from ingestd.history where id = $1", job)
            return error is not None and error["class"] == "ServerShort"

        await eventually(failed)
