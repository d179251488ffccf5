"""One job inline: the outcomes of a daemon, without one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ingestd import Client, testing
from ingestd.errors import InvalidInput, UsageError
from tests.testing import shop


async def test_a_job_that_needs_no_database_runs_without_one() -> None:
    ran = await testing.run(shop.outcome, {"wanted": "done"})
    assert (ran.succeeded, ran.result, ran.id) == (True, 5, 0)
    assert (await testing.run(shop.heavy, {"n": 21})).result == 42
    assert (await testing.run(shop.tell, {"supplier": "acme"})).result == "told acme"


@pytest.mark.parametrize(
    ("wanted", "outcome", "delay"),
    [("discard", "failed", None), ("retry", "retrying", timedelta(seconds=7)), ("snooze", "snoozed", timedelta(hours=1))],
)
async def test_outcomes_are_told_in_words(wanted: str, outcome: str, delay: timedelta | None) -> None:
    ran = await testing.run(shop.outcome, {"wanted": wanted})
    assert (ran.outcome, ran.delay) == (outcome, delay)


async def test_a_job_that_has_nothing_to_say_succeeds(dsn: str, conn: asyncpg.Connection) -> None:
    ran = await testing.run(shop.quiet, database=dsn)
    assert (ran.outcome, ran.result) == ("succeeded", None)
    assert await conn.fetchval("select state from ingestd.history where id = $1", ran.id) == "succeeded"


async def test_a_job_that_was_taken_away_meanwhile_is_stale(dsn: str, conn: asyncpg.Connection) -> None:
    ran = await testing.run(shop.robbed, database=dsn)
    assert ran.outcome == "stale"
    assert await conn.fetchval("select count(*) from ingestd.history") == 0


async def test_an_exception_is_kept_whole_and_raised_on_request() -> None:
    ran = await testing.run(shop.flaky, {"works_at": 3})
    assert ran.outcome == "retrying"
    assert isinstance(ran.exception, LookupError)
    assert ran.error is not None
    assert ran.error["class"] == "LookupError"
    with pytest.raises(LookupError, match="attempt 1"):
        ran.check()
    assert (await testing.run(shop.flaky, {"works_at": 9}, attempt=3)).outcome == "failed"
    assert (await testing.run(shop.flaky, {"works_at": 3}, attempt=3)).check().result == 3


async def test_arguments_that_do_not_fit_fail_the_job_as_in_a_daemon() -> None:
    ran = await testing.run(shop.tell, {"suplier": "acme"})
    assert ran.outcome == "failed"
    assert ran.reason is not None
    assert "missing supplier" in ran.reason
    with pytest.raises(AssertionError, match="missing supplier"):
        ran.check()


async def test_a_job_that_needs_a_database_says_so() -> None:
    ran = await testing.run(shop.price, {"supplier": "acme"})
    with pytest.raises(UsageError, match="give testing"):
        ran.check()


async def test_rows_follow_ups_and_completion_are_committed_together(dsn: str, conn: asyncpg.Connection) -> None:
    ran = (await testing.run(shop.price, {"supplier": "acme"}, database=dsn, tags=("t",))).check()
    assert ran.result == {"supplier": "acme", "in": "EUR"}
    assert ran.counts == {"succeeded": 1, "failed": 0, "skipped": 0}
    assert await conn.fetchval("select supplier from public.price") == "acme"
    assert await conn.fetchval("select state from ingestd.history where id = $1", ran.id) == "succeeded"
    (told,) = await testing.assert_enqueued(dsn, "tell", {"supplier": "acme"}, count=1)
    assert told.state == "available"


async def test_on_a_connection_everything_is_part_of_its_transaction(conn: asyncpg.Connection) -> None:
    transaction = conn.transaction()
    await transaction.start()
    ran = (await testing.run(shop.price, {"supplier": "acme"}, database=conn)).check()
    assert await conn.fetchval("select count(*) from ingestd.history where id = $1", ran.id) == 1
    assert len(await testing.enqueued(conn, "tell")) == 1
    await transaction.rollback()
    assert await conn.fetchval("select to_regclass('public.price') is null")
    assert await testing.enqueued(conn) == []


async def test_what_a_step_has_stored_is_there_for_the_next_attempt(dsn: str) -> None:
    with pytest.raises(RuntimeError, match="after the first step"):
        (await testing.run(shop.steps, database=dsn)).check()
    assert (await testing.run(shop.steps, database=dsn, checkpoint={"done": 1}, attempt=2)).result == {"done": 1}


@pytest.mark.parametrize("given", [1, None.__class__, []])
async def test_what_is_no_database_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="a database is a URL"):
        await testing.run(shop.tell, {"supplier": "x"}, database=given)


async def test_what_is_no_job_is_refused() -> None:
    with pytest.raises(TypeError, match="with @job"):
        await testing.run(len)  # type: ignore[arg-type]


async def test_options_are_checked_as_everywhere(dsn: str) -> None:
    with pytest.raises(InvalidInput):
        await testing.run(shop.tell, {"supplier": "x"}, database=dsn, queue="nowhere")
    for options, says in (({"quue": "x"}, "unknown option"), ({"timeout": 3}, "not a duration"), ({"priority": "urgent"}, "priority")):
        for database in (dsn, None):
            with pytest.raises(InvalidInput, match=says):
                await testing.run(shop.tell, {"supplier": "x"}, database=database, **options)
    ran = await testing.run(shop.sleeps, timeout="50ms")
    assert (ran.outcome, ran.reason) == ("retrying", "timed out after 50ms")


async def test_arguments_and_results_go_through_json_as_in_a_queue(dsn: str) -> None:
    for database in (dsn, None):
        ran = await testing.run(shop.echo, {"what": datetime(2027, 1, 31, tzinfo=UTC)}, database=database)
        assert ran.result == {"type": "str", "back": ["2027-01-31T00:00:00+00:00"]}


async def test_a_kind_brings_its_queue_and_can_be_enqueued_by_name_once_it_is_published(dsn: str) -> None:
    assert (await testing.run(shop.mail, database=dsn)).succeeded
    async with Client(dsn) as client:
        with pytest.raises(InvalidInput, match="no node knows"):
            await client.enqueue("post")
        await testing.publish(dsn, shop)
        await client.enqueue("post")
    (job,) = await testing.assert_enqueued(dsn, "post", count=1)
    assert job.queue == "letters"
