"""Enqueueing from Python: `Client`, `@job` functions, and the caller's own transaction."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ingestd import Client, Context, Done, job
from ingestd.errors import InvalidInput, UsageError
from ingestd.jobs.decorator import JobFunction, declared_jobs
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.postgres.pool import Database
from tests.jobs.kit import rows


async def test_a_job_takes_the_defaults_of_its_kind(client: Client, conn: asyncpg.Connection) -> None:
    handle = await client.enqueue("sync", {"x": 1})
    (row,) = await rows(conn)
    assert (row["id"], row["args"], row["queue"], row["rank"], row["max_attempts"]) == (handle.id, {"x": 1}, "rollups", -5, 9)
    status = await handle.status()
    assert status is not None
    assert (status["state"], status["triggered_by"]) == ("available", "api")


async def test_a_kind_whose_queue_is_not_declared_is_refused_by_every_call(client: Client, conn: asyncpg.Connection) -> None:
    await conn.execute("insert into ingestd.kind (name, queue, priority, max_attempts) values ('mail', 'mials', 0, 1)")
    says = 'no queue "mials", which is that of the kind "mail"; declare it as'
    for _ in range(2):  # the second goes with others, as does what nobody knows
        with pytest.raises(InvalidInput, match=says):
            await client.enqueue("mail", {})
    with pytest.raises(InvalidInput, match=says):
        await client.enqueue_many("mail", [{}, {}])
    with pytest.raises(InvalidInput, match="the queue of mail is not declared"):
        async with conn.transaction():
            await enqueue(conn, [NewJob("mail"), NewJob("mail")])
    assert len(await client.enqueue_many("mail", [{}, {}], queue="default")) == 2
    assert len(await rows(conn)) == 2


async def test_every_option_is_kept(client: Client, conn: asyncpg.Connection) -> None:
    at = datetime.now(UTC) + timedelta(days=1)
    await client.enqueue(
        "sync",
        {"x": 1},
        queue="imports",
        priority="low",
        run_at=at,
        unique_key="k",
        max_attempts=2,
        tags=["a"],
        notes="n",
        metadata={"m": 1},
        correlation_id="c",
    )
    (row,) = await rows(conn)
    assert (row["queue"], row["rank"], row["run_at"], row["unique_key"], row["max_attempts"]) == ("imports", 10, at, "k", 2)
    assert (row["tags"], row["notes"], row["metadata"], row["correlation_id"]) == (["a"], "n", {"m": 1}, "c")


async def test_many_jobs_are_one_transaction_in_order_with_the_same_options(client: Client, conn: asyncpg.Connection) -> None:
    handles = await client.enqueue_many("sync", [{"n": number} for number in range(2_500)], priority="high", tags=["bulk"])
    found = {row["id"]: row for row in await rows(conn)}
    assert [found[handle.id]["args"]["n"] for handle in handles] == list(range(2_500))
    assert {(row["rank"], tuple(row["tags"])) for row in found.values()} == {(-10, ("bulk",))}
    assert len({row["created_at"] for row in found.values()}) == 1
    assert await client.enqueue_many("sync", []) == []


async def test_a_unique_key_answers_with_the_open_job(client: Client) -> None:
    handles = await asyncio.gather(*(client.enqueue("sync", unique_key="k") for _ in range(8)))
    assert len({handle.id for handle in handles}) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "snyc"}, 'no node knows the kind "snyc", did you mean "sync"?'),
        ({"kind": ""}, "no node knows the kind"),
        ({"kind": "a\ud800"}, "kind holds half a character"),
        ({"kind": "a\0"}, "kind holds a NUL"),
        ({"kind": "", "allow_unknown": True}, "a job needs a kind"),
        ({"queue": "fast"}, 'there is no queue "fast"; declare it as'),
        ({"priority": "urgent"}, '"urgent" is not a priority'),
        ({"priority": 101}, '"101" is not a priority'),
        ({"run_at": datetime(2031, 1, 1)}, "run_at has no time zone"),  # noqa: DTZ001
        ({"max_attempts": 0}, "max_attempts must be 1 to 32767"),
        ({"max_attempts": 40_000}, "max_attempts must be 1 to 32767"),
        ({"max_attempts": 2**40}, "a whole number, not 1099511627776"),
        ({"max_attempts": "3"}, "a whole number, not '3'"),
        ({"max_attempts": 3.0}, "a whole number, not 3.0"),
        ({"max_attempts": True}, "a whole number, not True"),
        ({"args": [1]}, "args of a job must be a JSON object"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_nothing_is_stored(
    client: Client, conn: asyncpg.Connection, options: dict[str, Any], said: str
) -> None:
    options = {"kind": "sync", **options}
    with pytest.raises(InvalidInput) as refused:
        await client.enqueue(options.pop("kind"), **options)
    assert said in refused.value.message
    assert await rows(conn) == []


async def test_an_unknown_kind_may_be_enqueued_on_request(client: Client) -> None:
    assert (await client.enqueue("tomorrow", allow_unknown=True)).id > 0


async def test_a_client_that_is_not_open_says_so(dsn: str) -> None:
    closed = Client(dsn)
    with pytest.raises(UsageError, match="the client is not open"):
        await closed.enqueue("sync")
    async with closed:
        pass
    with pytest.raises(UsageError, match="the client is not open"):
        await closed.enqueue("sync")


async def test_a_database_without_a_queue_is_told(conn: asyncpg.Connection, dsn: str) -> None:
    await conn.execute("drop schema ingestd cascade")
    async with Client(dsn) as client:
        for allow_unknown in (False, True):
            with pytest.raises(UsageError, match="run `ingestd migrate` on it"):
                await client.enqueue("sync", allow_unknown=allow_unknown)


# the caller's transaction


async def test_a_job_on_the_callers_connection_commits_and_rolls_back_with_it(client: Client, conn: asyncpg.Connection, dsn: str) -> None:
    await conn.execute("create table stock (item text)")
    plain = await asyncpg.connect(dsn)  # as a caller has it, without our codecs
    try:
        given_up = plain.transaction()
        await given_up.start()
        await plain.execute("insert into stock values ('lost')")
        await client.enqueue("sync", {"x": 1}, conn=plain)
        await given_up.rollback()
        assert await rows(conn) == []
        async with plain.transaction():
            await plain.execute("insert into stock values ('kept')")
            handle = await client.enqueue("sync", {"x": [None, "ö"]}, metadata={"m": 1}, conn=plain)
            handles = await client.enqueue_many("sync", [{"n": 1}, {"n": 2}], conn=plain)
            assert await rows(conn) == [], "nobody else may see it before the commit"
        found = await rows(conn)
        assert [row["id"] for row in found] == [handle.id, *(one.id for one in handles)]
        assert (found[0]["args"], found[0]["metadata"]) == ({"x": [None, "ö"]}, {"m": 1})
        assert await conn.fetchval("select array_agg(item) from stock") == ["kept"]
    finally:
        await plain.close()


async def test_a_refused_job_leaves_the_callers_transaction_usable(client: Client, conn: asyncpg.Connection) -> None:
    async with conn.transaction():
        with pytest.raises(InvalidInput):
            await client.enqueue("sync", queue="fast", conn=conn)
        await client.enqueue("sync", conn=conn)
    assert len(await rows(conn)) == 1


async def test_a_job_whose_kinds_own_queue_is_not_declared_leaves_the_callers_transaction_usable(
    client: Client, conn: asyncpg.Connection
) -> None:
    await conn.execute("insert into ingestd.kind (name, queue, priority, max_attempts) values ('lost', 'gone', 0, 4)")
    async with conn.transaction():
        with pytest.raises(InvalidInput, match='no queue "gone", which is that of the kind "lost"'):
            await client.enqueue("lost", conn=conn)
        with pytest.raises(InvalidInput, match='no queue "gone", which is that of the kind "lost"'):
            await enqueue(conn, [NewJob("lost")])
        await client.enqueue("sync", conn=conn)
    assert [row["kind"] for row in await rows(conn)] == ["sync"]


# @job


@job("sync_prices", queue="imports", priority="high", max_attempts=2, timeout="10m")
async def sync_prices(ctx: Context | None, supplier: str, *, full: bool = False) -> Done:
    """Fetch them."""
    return Done({"supplier": supplier, "full": full})


@job("plain")
def plain(ctx: Context | None) -> str:
    return "done"


async def test_a_job_function_is_still_a_function() -> None:
    assert await sync_prices(None, "acme") == Done({"supplier": "acme", "full": False})
    assert plain(None) == "done"
    assert (sync_prices.__name__, sync_prices.__doc__) == ("sync_prices", "Fetch them.")


async def test_a_job_function_enqueues_with_what_it_declares_before_any_node_has_published_it(
    client: Client, conn: asyncpg.Connection
) -> None:
    handle = await sync_prices.enqueue(supplier="acme", full=True)
    (row,) = await rows(conn)
    assert (row["id"], row["kind"], row["args"]) == (handle.id, "sync_prices", {"supplier": "acme", "full": True})
    assert (row["queue"], row["rank"], row["max_attempts"]) == ("imports", -10, 2)


async def test_a_job_function_takes_options_that_win_over_what_it_declares(client: Client, conn: asyncpg.Connection) -> None:
    bound = sync_prices.options(priority="low", queue=None, delay="10m", tags=["night"])
    handles = [await bound.enqueue(supplier="acme"), *await bound.enqueue_many([{"supplier": "a"}, {"supplier": "b", "full": True}])]
    found = await rows(conn)
    assert [row["id"] for row in found] == [handle.id for handle in handles]
    assert {(row["queue"], row["rank"], row["max_attempts"], tuple(row["tags"])) for row in found} == {("imports", 10, 2, ("night",))}
    assert {row["run_at"] - row["created_at"] for row in found} == {timedelta(minutes=10)}


async def test_a_job_function_enqueues_within_the_callers_transaction(client: Client, conn: asyncpg.Connection) -> None:
    tx = conn.transaction()
    await tx.start()
    await sync_prices.options(conn=conn).enqueue(supplier="acme")
    await sync_prices.options(conn=conn).enqueue_many([{"supplier": "acme"}], unique_keys=["k"])
    assert len(await rows(conn)) == 2
    await tx.rollback()
    assert await rows(conn) == []


async def test_many_jobs_with_wrong_arguments_among_them_are_refused_whole(client: Client, conn: asyncpg.Connection) -> None:
    with pytest.raises(TypeError):
        await sync_prices.options().enqueue_many([{"supplier": "acme"}, {"suplier": "acme"}])
    with pytest.raises(InvalidInput, match="2 jobs need as many unique_keys, not 1"):
        await client.enqueue_many("sync", [{}, {}], unique_keys=["a"])
    with pytest.raises(InvalidInput, match="many jobs cannot share a unique_key"):
        await client.enqueue_many("sync", [{}, {}], unique_key="a")
    assert await rows(conn) == []


async def test_thousands_of_jobs_with_keys_go_in_one_transaction_in_order(client: Client, conn: asyncpg.Connection) -> None:
    keys = [f"k{number % 2000}" for number in range(2_500)]
    handles = await client.enqueue_many("sync", [{"n": number} for number in range(2_500)], unique_keys=keys)
    found = {row["id"]: row for row in await rows(conn)}
    assert len(found) == 2_000
    assert [found[handle.id]["args"]["n"] for handle in handles] == [number % 2000 for number in range(2_500)]
    assert [handle.created for handle in handles] == [number < 2000 for number in range(2_500)]
    assert len({row["created_at"] for row in found.values()}) == 1


@pytest.mark.parametrize("args", [{}, {"suplier": "acme"}, {"supplier": "acme", "more": 1}])
async def test_arguments_that_do_not_fit_are_refused_where_they_are_written(
    client: Client, conn: asyncpg.Connection, args: dict[str, Any]
) -> None:
    with pytest.raises(TypeError):
        await sync_prices.enqueue(**args)
    assert await rows(conn) == []


async def test_enqueue_needs_a_client_in_use() -> None:
    with pytest.raises(UsageError, match="enqueue needs a client"):
        await plain.enqueue()


async def test_clients_nest_and_each_task_has_its_own(dsn: str, client: Client, db: Database) -> None:
    async with Client(db):
        inner = await plain.enqueue()
        assert inner.client is not client
    assert (await plain.enqueue()).client is client
    assert (await asyncio.create_task(plain.enqueue())).client is client


async def test_a_client_of_open_pools_leaves_them_open(db: Database) -> None:
    async with Client(db) as shared:
        await shared.enqueue("any", allow_unknown=True)
    async with db.services() as conn:
        assert await conn.fetchval("select count(*) from ingestd.job") == 1


def test_the_specs_say_how_a_job_is_run() -> None:
    spec, other = sync_prices.spec, plain.spec
    assert (spec.kind, spec.queue, spec.priority, spec.max_attempts, spec.timeout) == (
        "sync_prices",
        "imports",
        10,
        2,
        timedelta(minutes=10),
    )
    assert (spec.executor, other.executor) == ("async", "thread")
    assert declared_jobs({"a": sync_prices, "again": sync_prices, "b": plain, "c": 3}) == [spec, other]


def test_two_jobs_of_one_kind_are_both_reported() -> None:
    @job("plain")
    def twin(ctx: Context) -> None: ...

    assert len(declared_jobs({"a": plain, "b": twin})) == 2


def generator(ctx: Context) -> Any:
    yield 1


async def async_generator(ctx: Context) -> Any:
    yield 1


def without_context() -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (generator, "it does not yield"),
        (async_generator, "it does not yield"),
        (without_context, r"a handler takes the context first: def without_context\(ctx, …\)"),
        (int, "a handler is a function"),
        (None, "a handler is a function"),
    ],
)
def test_what_cannot_be_a_handler_is_refused_where_it_is_declared(function: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        job("bad")(function)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Bad", {}, "is not a name"),
        ("good", {"queue": "Not Good"}, "is not a name"),
        ("good", {"priority": "urgent"}, "is not a priority"),
        ("good", {"max_attempts": 0}, "max_attempts of job good must be 1 to 32767"),
        ("good", {"timeout": "soon"}, "is not a duration"),
    ],
)
def test_options_that_make_no_sense_are_refused_where_they_are_declared(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        job(name, **options)(plain)


def test_forgetting_the_name_is_told() -> None:
    with pytest.raises(TypeError, match=r'write @job\("name"\)'):
        job(without_context)  # type: ignore[arg-type]
    assert isinstance(plain, JobFunction)


async def test_a_wait_that_was_in_vain_says_for_which_job_and_how_long(client: Client) -> None:
    handle = await client.enqueue("sync")
    with pytest.raises(TimeoutError, match=f"job {handle.id} is not final after 0.05 s; it stays in the queue"):
        await handle.result(timeout="50ms")
    for wrong in ("soon", float("nan")):
        with pytest.raises(ValueError, match=r"is not a duration|never ends"):
            await handle.result(timeout=wrong)
