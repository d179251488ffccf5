"""Arguments of many jobs are looked through as a whole, and are what they would be one by one."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestd import Client, job
from ingestd.errors import InvalidInput
from ingestd.jobs.checks import DEEPEST, json_args, json_list
from ingestd.jobs.client import use_client
from ingestd.jobs.enqueue import BATCH
from ingestd.postgres.migrate import grant
from tests.support import eventually


@dataclass
class Place:
    """A value of somebody's own."""

    city: Any


class Row(dict[str, Any]):
    """What is a dict, though not of that very type."""


@job("count_up")
async def count_up(ctx: Any, /, n: int, **others: Any) -> None:
    """A kind that is enqueued by its function."""


def nested(levels: int, inner: Any) -> Any:
    for turn in range(levels):
        inner = [inner] if turn % 2 else {"in": inner}
    return inner


TEXTS = st.one_of(st.text(max_size=5), st.sampled_from(["[[[{{{" * 30, "\\u0000", "null", "\0", "\ud800", "[null]", '\\"', "a\\", "{"]))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**308, -(10**308), 10**307, 1.5, 1e308]),
    st.floats(),
    TEXTS,
    st.sampled_from(
        [Decimal("1.50"), date(2027, 1, 31), datetime(2027, 1, 31, tzinfo=UTC), timedelta(1), PurePosixPath("/a"), UUID(int=7)]
    ),
    st.sampled_from([b"raw", {1, 2}, object(), 1j, Place]),
)
KEYS = st.one_of(TEXTS, st.integers(-3, 3), st.none(), st.booleans(), st.sampled_from([date(2027, 1, 31), (1, 2)]))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(TEXTS, inner, max_size=3).map(Row),
        st.dictionaries(TEXTS, inner, max_size=2).map(OrderedDict),
        inner.map(Place),
        st.tuples(st.integers(DEEPEST - 4, DEEPEST + 2), inner).map(lambda drawn: nested(*drawn)),
    ),
    max_leaves=6,
)
ARGS = st.one_of(st.dictionaries(TEXTS, VALUES, max_size=3), st.dictionaries(TEXTS, VALUES, max_size=2).map(Row), st.just({}))
LISTS = st.lists(st.one_of(ARGS, ARGS, ARGS, VALUES), max_size=5)


def one_by_one(args: list[Any]) -> list[str] | tuple[type[Exception], str]:
    try:
        return [json_args(one) for one in args]
    except Exception as error:
        return type(error), str(error)


def as_a_whole(args: Any) -> str | tuple[type[Exception], str]:
    try:
        return json_list(args)
    except Exception as error:
        return type(error), str(error)


@given(LISTS)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_refused_one_by_one_is_refused_as_a_whole_in_the_same_words(args: list[Any]) -> None:
    expected = one_by_one(args)
    if isinstance(expected, tuple):
        assert expected[0] is InvalidInput, (args, expected)
    for given_as in (list, tuple):
        got = as_a_whole(given_as(args))
        if isinstance(expected, tuple):
            assert got == expected
        else:
            assert isinstance(got, str)
            assert json.loads(got) == [json.loads(one) for one in expected]


def test_an_integer_beyond_64_bits_is_stored_wherever_it_stands_and_beside_it_only_plain_names() -> None:
    huge = {"at": Place({"n": 2**64, "when": date(2027, 1, 31)}), "more": OrderedDict(n=-(2**70))}
    assert json.loads(json_args(huge)) == {"at": {"city": {"n": 2**64, "when": "2027-01-31"}}, "more": {"n": -(2**70)}}
    with pytest.raises(InvalidInput, match=r"args of a job cannot be written as JSON: keys must be str.* not date"):
        json_args({"n": 2**64, "days": {date(2027, 1, 31): 1}})


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2500])
async def test_ids_are_in_the_order_of_the_arguments_however_many_there_are(dsn: str, conn: asyncpg.Connection, count: int) -> None:
    async with Client(dsn) as client:
        ids = [each.id for each in await client.enqueue_many("k", [{"n": n} for n in range(count)], allow_unknown=True)]
    assert await in_order(conn) == list(zip(ids, range(count), strict=True))


async def test_more_than_fits_into_one_statement_is_cut_in_order(dsn: str, conn: asyncpg.Connection) -> None:
    async with Client(dsn) as client:
        given = [{"n": n, "text": "[{é" * 200_000 * (n % 3 == 0)} for n in range(40)]
        ids = [each.id for each in await client.enqueue_many("k", given, allow_unknown=True)]
    assert await in_order(conn) == list(zip(ids, range(40), strict=True))


@pytest.mark.parametrize("given_as", [tuple, deque, iter, lambda args: dict(enumerate(args)).values()])
async def test_many_arguments_may_be_given_as_anything_that_holds_them(
    dsn: str, conn: asyncpg.Connection, given_as: Callable[[list[dict[str, int]]], Any]
) -> None:
    await conn.execute("insert into ingestd.kind (name, arguments) values ('count_up', $1)", {"type": "object", "required": ["n"]})
    args = [{"n": n} for n in range(3)]
    async with Client(dsn) as client:
        ids = [each.id for each in await client.enqueue_many("count_up", given_as(args))]
        with use_client(client):
            ids += [each.id for each in await count_up.options().enqueue_many(given_as(args))]
    assert await in_order(conn) == list(zip(ids, [0, 1, 2] * 2, strict=True))


@asynccontextmanager
async def begun_by_hand(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction that asyncpg's own blocks refuse to be inside of."""
    await conn.execute("begin")
    yield
    await conn.execute("commit")


@pytest.mark.parametrize("begun", [asyncpg.Connection.transaction, begun_by_hand])
@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("options", [{}, {"key": "a"}, {"delay": "10m"}, {"timeout": "5m"}], ids=str)
@pytest.mark.parametrize("count", [1, 3])
async def test_many_jobs_that_are_refused_leave_nothing_and_their_callers_transaction_open(
    dsn: str, conn: asyncpg.Connection, begun: Callable[[asyncpg.Connection], Any], granted: bool, options: dict[str, Any], count: int
) -> None:
    await conn.execute("insert into ingestd.kind (name, queue) values ('lost', 'nowhere')")
    args = [{"n": n} for n in range(count)]
    role = f"shop_{conn.get_server_pid()}"
    await conn.execute(f"create role {role}")
    await grant(conn, role)
    try:
        async with Client(dsn) as client, begun(conn):
            await conn.execute(f"set local role {role}" if granted else "select")
            for wrong in ({"kind": "lost"}, {"kind": "k", "queue": "nope"}, {"kind": "k", "max_attempts": 0}):
                with pytest.raises(InvalidInput):
                    await client.enqueue_many(**wrong, args=args, allow_unknown=True, conn=conn, **options)  # type: ignore[arg-type]
            await client.enqueue_many("k", args, allow_unknown=True, conn=conn, **options)  # type: ignore[arg-type]
        assert [n for _, n in await in_order(conn)] == list(range(count))
    finally:
        await conn.execute(f"drop owned by {role}; drop role {role}")


WAITS_FOR_7 = """
select true from pg_locks l join pg_database d on d.oid = l.database
where d.datname = current_database() and l.locktype = 'advisory' and l.objid = 7 and not l.granted"""


@pytest.mark.parametrize("count", [1, BATCH + 1])
async def test_a_queue_that_is_declared_while_many_jobs_are_stored_leaves_nobody_with_some_of_them(
    dsn: str, conn: asyncpg.Connection, count: int
) -> None:
    await conn.execute(
        """insert into ingestd.kind (name, queue) values ('late', 'late');
           create function wait_here() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(7); return null; end $$;
           create trigger wait_here before insert on ingestd.job for each statement execute function wait_here();
           select pg_advisory_lock(7)"""
    )
    args = [{"n": n} for n in range(count)]
    async with Client(dsn) as client:
        # Its first statement has looked for the queue, and waits before it stores anything.
        asked = asyncio.create_task(client.enqueue_many("late", args))

        async def waits() -> bool:
            return bool(await conn.fetchval(WAITS_FOR_7))

        await eventually(waits)
        await conn.execute("insert into ingestd.queue (name) values ('late')")
        await conn.execute("select pg_advisory_unlock(7)")
        with pytest.raises(InvalidInput, match="declared only just now; nothing was enqueued") as refused:
            await asked
        assert refused.value.hint == "enqueue them again"
        assert await in_order(conn) == []
        await client.enqueue_many("late", args)
    assert [n for _, n in await in_order(conn)] == list(range(count))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "missing a required argument: 'n'"),
        ({1: 2}, "keywords must be strings"),
        ([1], "after [*][*] must be a mapping, not list"),
        (5, "after [*][*] must be a mapping, not int"),
    ],
)
async def test_arguments_that_do_not_fit_a_function_are_refused_in_the_words_of_a_call(dsn: str, args: Any, said: str) -> None:
    @job("plain")
    async def plain(ctx: Any, n: int) -> None: ...

    async with Client(dsn) as client:
        with use_client(client), pytest.raises(TypeError, match=said):
            await plain.options().enqueue_many([args])


async def test_a_name_of_the_context_that_goes_by_place_is_an_argument_like_any_other(dsn: str, conn: asyncpg.Connection) -> None:
    async with Client(dsn) as client:
        with use_client(client):
            await count_up.enqueue(n=1, ctx="mine")
    assert await conn.fetchval("select args from ingestd.job") == {"n": 1, "ctx": "mine"}


async def in_order(conn: asyncpg.Connection) -> list[tuple[int, int]]:
    return [tuple(row) for row in await conn.fetch("select id, (args ->> 'n')::int from ingestd.job order by id")]
