"""What cannot be a job is refused in one clear line, through every entrance; nothing is half-stored and nobody else is harmed."""

from __future__ import annotations

import asyncio
from collections import UserDict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import Any

import asyncpg
import orjson
import psycopg
import pytest

from ingestd import Client
from ingestd.errors import InvalidInput
from ingestd.jobs.arguments import problems
from ingestd.jobs.backoff import Backoff
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.kinds import PublishedKind
from ingestd.jobs.model import NewJob

ENQUEUE = "select ingestd.enqueue($1, $2, $3)"
SCHEMA = {
    "type": "object",
    "properties": {"limit": {"type": "integer", "minimum": 1}, "where": {"type": "object", "properties": {"city": {"type": "string"}}}},
    "required": ["limit"],
    "additionalProperties": False,
}


@pytest.fixture
async def client(dsn: str, conn: asyncpg.Connection) -> AsyncIterator[Client]:
    """`sync` takes a limit, `free` takes anything."""
    await conn.execute(
        "insert into ingestd.kind (name, arguments, aliases) values ('sync', $1, '{old_sync}'), ('free', null, '{}')", SCHEMA
    )
    async with Client(dsn) as opened:
        yield opened


async def count(conn: asyncpg.Connection) -> int:
    found: int = await conn.fetchval("select count(*) from ingestd.job")
    return found


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# options, the same words from Python and SQL

ALIKE: list[tuple[dict[str, Any], str]] = [
    ({"queue": "fast"}, 'queue "fast"'),
    ({"queue": ""}, "queue is empty"),
    ({"priority": "urgent"}, 'priority: "urgent" is not|priority "urgent" is not'),
    ({"priority": 101}, "101"),
    ({"max_attempts": 0}, "1 to 32767"),
    ({"run_at": "soon"}, 'run_at.*"soon" is not a'),
    ({"run_at": "2031-01-01T00:00:00"}, "run_at has no time zone|run_at .* a date, a time and a zone"),
    ({"run_at": "2031-01-01 08:00 Mars/Olympus"}, "is not a moment|is not a timestamp"),
    ({"run_at": "9999-06-01T00:00:00Z"}, "run_at"),
    ({"run_at": "200000-01-01T00:00:00Z"}, "run_at"),
    ({"run_at": "2031-01-01T00:00:00Z", "delay": "5m"}, "run_at .*delay"),
    ({"delay": "-5m"}, 'delay.*"-5m" is negative'),
    ({"delay": "a while"}, 'delay.*"a while" is not a duration'),
    ({"delay": "60000d"}, "delay"),
    ({"timeout": "0s"}, "timeout"),
    ({"hard_timeout": "-1s"}, "hard_timeout.*negative"),
    ({"unique_mode": "replace"}, "need a unique_key"),
    ({"unique_key": "k", "unique_mode": "merge"}, 'unique_mode.*"merge"'),
    ({"unique_key": "k", "unique_until": "noon"}, 'unique_until.*"noon"'),
    ({"unique_key": "k", "unique_for": "0s"}, "unique_for"),
    ({"unique_key": ""}, "unique_key is empty"),
    ({"unique_key": "k" * 501}, "unique_key is.*500"),
    ({"key": "k" * 501}, "key is.*500"),
    ({"key_strict": True}, "key_strict needs a key"),
    ({"backoff": {"base": "soon"}}, "backoff"),
    ({"backoff": {"factor": 0}}, "backoff"),
    ({"backoff": {"jitter": 2}}, "backoff"),
    ({"backoff": {"colour": 2}}, "backoff"),
    ({"tags": "night"}, "tags"),
    ({"tags": ["x" * 101]}, "tag"),
    ({"tags": [""]}, "tag"),
    ({"tags": ["x"] * 51}, "at most 50 tags"),
    ({"notes": "x" * 10_001}, "notes is.*10000"),
    ({"metadata": {"x": "y" * 70_000}}, "metadata.*KiB|metadata.*kB"),
    ({"correlation_id": "x" * 201}, "correlation_id is.*200"),
    ({"parent_id": 0}, "not the id of a job"),
    ({"parent_id": "x"}, "not the id of a job"),
    ({"parent_id": 2**63}, "not the id of a job"),
    ({"colour": "red"}, 'option "colour"'),
]


@pytest.mark.parametrize(("options", "said"), ALIKE, ids=lambda value: str(value)[:40])
async def test_options_that_make_no_sense_are_refused_by_python_and_sql(
    client: Client, conn: asyncpg.Connection, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as refused:
        await client.enqueue("free", **options)
    assert "\n" not in refused.value.message
    assert (refused.value.pointer or "").startswith("/")
    with pytest.raises(asyncpg.InvalidParameterValueError, match=said):
        await conn.fetchval(ENQUEUE, "free", {}, options)
    assert await count(conn) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"run_at": datetime(2031, 1, 1)}, "run_at has no time zone"),  # noqa: DTZ001
        ({"run_at": datetime.max.replace(tzinfo=UTC)}, "years 2 to 9998"),
        ({"run_at": datetime(2, 1, 1, tzinfo=timezone(timedelta(hours=1)))}, "years 2 to 9998"),
        ({"run_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))}, "years 2 to 9998"),
        ({"delay": timedelta(seconds=-1)}, "negative"),
        ({"delay": timedelta.max}, "longer than 100 years"),
        ({"delay": 5}, "is not a duration"),
        ({"notes": "a\0b"}, "notes holds a NUL character"),
        ({"tags": ["a\0b"]}, "a tag holds a NUL character"),
        ({"unique_key": "a\ud800b"}, "half a character"),
        ({"key": 5}, "key must be a string"),
        ({"tags": [5]}, "a tag must be a string"),
        ({"max_attempts": "4"}, "max_attempts must be"),
        ({"backoff": {"bse": "1s"}}, 'backoff: unknown "bse", did you mean "base"'),
        ({"backoff": [1]}, "backoff: .* is no object such as"),
        ({"metadata": {"a": ["\0"]}}, "/metadata/a/0 holds a NUL"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_only_python_can_say_is_refused_too(
    client: Client, conn: asyncpg.Connection, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        await client.enqueue("free", **options)
    assert await count(conn) == 0


@pytest.mark.parametrize("kind", [None, 5, b"free"])
async def test_a_kind_that_is_no_text_is_refused(client: Client, conn: asyncpg.Connection, kind: Any) -> None:
    with pytest.raises(InvalidInput, match="kind must be a string, not"):
        await client.enqueue(kind)
    with pytest.raises(InvalidInput, match="kind must be a string, not"):
        await client.enqueue_many(kind, [{}])
    assert await count(conn) == 0


# arguments


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"a": {"b": "x\0y"}}, "/args/a/b holds a NUL character"),
        ({"a\0": 1}, "/args has a name that holds a NUL character"),
        ({"a": ["\ud800"]}, "/args/a/0 holds half a character"),
        ({"a": float("nan")}, "/args/a is nan, which JSON cannot hold"),
        ({"a": [1, float("-inf")]}, "/args/a/1 is -inf"),
        ({"a": 10**400}, "/args/a is a number beyond 1e308"),
        ({"a": nested(64)}, "is nested deeper than 64 levels"),
        ({"a": nested(5000)}, "is nested deeper than 64 levels"),
        ({"a": object()}, "/args/a is a object, which JSON cannot hold"),
        ({"a": {1, 2}}, "/args/a is a set"),
        ({"a": b"raw"}, "/args/a is a bytes"),
        ({"a": "x" * 10_000_000}, r"args of a job takes 9766 KiB as JSON, more than 1 MiB"),
        ([1], "args of a job must be a JSON object"),
        ("text", "args of a job must be a JSON object"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
async def test_arguments_that_cannot_be_stored_are_refused_with_their_place(
    client: Client, conn: asyncpg.Connection, args: Any, said: str
) -> None:
    refused: list[Callable[[], Any]] = [
        lambda: client.enqueue("free", args),
        lambda: client.enqueue("free", args, unique_key="k"),
        lambda: client.enqueue_many("free", [{"fine": 1}, args]),
        lambda: enqueue(conn, [NewJob("free"), NewJob("free", args)]),
    ]
    for attempt in refused:
        with pytest.raises(InvalidInput, match=said):
            await attempt()
    assert await count(conn) == 0


async def test_what_json_can_hold_is_stored_as_it_is(client: Client, conn: asyncpg.Connection) -> None:
    args = {"none": None, "big": 2**70, "deep": nested(62), "text": "ö\\u0000 null [{", "price": Decimal("1.50"), 5: [True, 1e308]}
    await client.enqueue("free", args)
    kept = await conn.fetchval("select args from ingestd.job")
    assert kept == {"none": None, "big": float(2**70), "deep": nested(62), "text": "ö\\u0000 null [{", "price": "1.50", "5": [True, 1e308]}
    assert await conn.fetchval("select args ->> 'big' from ingestd.job") == str(2**70)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ('{"a": 1e400}', "a number beyond"),
        ('{"a": %s}' % ("[" * 6000 + "]" * 6000), "nested deeper than 64 levels"),
        ('{"a": "%s"}' % ("x" * 10_000_000), "args is larger than 1024 kB"),
        ('{"a": "\\u0000"}', "unsupported Unicode escape"),
        ('{"a": "\\ud800"}', "invalid input syntax for type json"),
    ],
    ids=("huge number", "deep", "large", "nul", "surrogate"),
)
async def test_sql_callers_cannot_store_what_no_node_could_read(conn: asyncpg.Connection, args: str, said: str) -> None:
    """It would stop the claim of a whole queue."""
    with pytest.raises(asyncpg.DataError, match=said):
        await conn.fetchval("select ingestd.enqueue('free', $1::text::jsonb)", args)
    assert await count(conn) == 0


# the published schema


@pytest.mark.parametrize(
    ("args", "said", "pointer"),
    [
        ({}, 'the arguments do not fit sync: missing "limit"', "/args/limit"),
        ({"limit": "five"}, '"limit" must be a whole number', "/args/limit"),
        ({"limit": 0}, '"limit" must be at least 1', "/args/limit"),
        ({"limit": 1, "where": {"city": 5}}, '"where.city" must be a string', "/args/where/city"),
        ({"limit": 1, "lmit": 2}, 'unexpected "lmit", did you mean "limit"', "/args/lmit"),
    ],
)
async def test_arguments_are_held_against_what_the_kind_published(
    client: Client, conn: asyncpg.Connection, args: dict[str, Any], said: str, pointer: str
) -> None:
    await client.enqueue("sync", {"limit": 1})
    for attempt in (
        client.enqueue("sync", args),
        client.enqueue_many("sync", [{"limit": 1}, args]),
        client.enqueue("sync", args, delay="1s"),
    ):
        with pytest.raises(InvalidInput) as refused:
            await attempt
        assert said in refused.value.message
        assert refused.value.pointer == pointer
    assert await count(conn) == 1
    await client.enqueue("sync", args, allow_unknown=True)


@pytest.mark.parametrize(
    ("args", "said"), [({}, 'args of sync: "limit" is missing'), ({"limit": 1, "lmit": 2}, 'args of sync: "lmit" is not one of them')]
)
async def test_sql_callers_are_told_of_missing_and_unknown_names(
    client: Client, conn: asyncpg.Connection, args: dict[str, Any], said: str
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match=said):
        await conn.fetchval(ENQUEUE, "sync", args, {})
    await conn.fetchval(ENQUEUE, "sync", {"limit": "its type is the node's business"}, {})
    await conn.fetchval(ENQUEUE, "nobody_knows_it", args, {})


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        SCHEMA | {"additionalProperties": True},
        {"type": "object"},
        {"type": "object", "properties": {"limit": {}, "where": {"anyOf": [{"type": "object"}, {"type": "null"}]}}},
        {"type": "object", "properties": {"limit": {"type": ["integer", "string"]}, "lmit": {"type": "number"}}},
    ],
)
async def test_the_quick_look_at_arguments_never_passes_what_the_schema_refuses(schema: dict[str, Any]) -> None:
    kind = PublishedKind("sync", schema, 0.0)
    values = [1, 0, True, 1.0, 1.5, "x", None, {"city": "x"}, {"city": 5}, [1]]
    given = [{}] + [{name: value} for name in ("limit", "where", "lmit") for value in values]
    for args in [one | other for one in given for other in given] + [5, None, [1]]:
        assert bool(kind.problems(args)) == bool(problems(schema, args)), args


async def test_new_arguments_of_a_kind_are_accepted_as_soon_as_a_node_publishes_them(client: Client, conn: asyncpg.Connection) -> None:
    await client.enqueue("sync", {"limit": 1})
    await conn.execute("update ingestd.kind set arguments = arguments || '{\"additionalProperties\": true}' where name = 'sync'")
    await client.enqueue("sync", {"limit": 1, "more": 2})


async def test_a_kind_answers_to_its_older_names(client: Client, conn: asyncpg.Connection) -> None:
    await client.enqueue("old_sync", {"limit": 1})
    await client.enqueue("old_sync", {"limit": 2})
    await client.enqueue_many("old_sync", [{"limit": 3}])
    await conn.fetchval(ENQUEUE, "old_sync", {"limit": 4}, {})
    with pytest.raises(asyncpg.InvalidParameterValueError, match='"limit" is missing'):
        await conn.fetchval(ENQUEUE, "old_sync", {}, {})
    assert {row["kind"] for row in await conn.fetch("select kind from ingestd.job")} == {"sync"}


# others


async def test_a_bad_job_among_many_callers_harms_none_of_them(client: Client, conn: asyncpg.Connection) -> None:
    await client.enqueue("free", {"n": -1})
    bad = [{"queue": "fast"}, {"args": {"a": "\0"}}, {"notes": "\0"}, {"args": {"a": "x" * 2_000_000}}, {"unique_key": ""}]
    asked = [({"args": {"n": n}} if n % 8 else bad[n // 8 % len(bad)]) for n in range(80)]
    answers = await asyncio.gather(*(client.enqueue("free", **one) for one in asked), return_exceptions=True)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, InvalidInput)] == list(range(0, 80, 8))
    stored = {row["id"]: row["n"] for row in await conn.fetch("select id, (args ->> 'n')::int as n from ingestd.job")}
    assert [stored[answers[n].id] for n in range(80) if n % 8] == [n for n in range(80) if n % 8]  # type: ignore[union-attr]
    assert len(stored) == 71


async def test_one_bad_job_in_a_list_stores_none_of_it_and_leaves_the_transaction_usable(client: Client, conn: asyncpg.Connection) -> None:
    jobs = [NewJob("free"), NewJob("free", unique_key="k"), NewJob("free", queue="fast"), NewJob("free", delay=timedelta(1))]
    async with conn.transaction():
        with pytest.raises(InvalidInput):
            await client.enqueue_jobs(jobs, conn=conn)
        await client.enqueue("free", conn=conn)
    with pytest.raises(InvalidInput):
        await client.enqueue_jobs(jobs)
    assert await count(conn) == 1


async def test_large_arguments_go_in_statements_of_bearable_size(client: Client, conn: asyncpg.Connection) -> None:
    text = "x" * 1_000_000
    await client.enqueue("free")
    handles = await asyncio.gather(*(client.enqueue("free", {"n": n, "text": text}) for n in range(20)))
    handles += await client.enqueue_many("free", [{"n": n, "text": text} for n in range(20, 40)])
    stored = {row["id"]: row["n"] for row in await conn.fetch("select id, (args ->> 'n')::int as n from ingestd.job")}
    assert [stored[handle.id] for handle in handles] == list(range(40))


class Colour(Enum):
    RED = "red"


async def test_metadata_and_moments_are_kept_alike_by_every_statement(client: Client, conn: asyncpg.Connection, dsn: str) -> None:
    metadata = UserDict(
        {"huge": 2**70, "map": MappingProxyType({"one": Decimal("1.5")}), "colour": Colour.RED, "on": date(2027, 1, 1), 7: timedelta(1)}
    )
    east = datetime(9998, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=16)))
    options: dict[str, Any] = {"metadata": metadata, "run_at": east}
    await client.enqueue("free", **options)
    await client.enqueue("free", unique_key="k", **options)
    await client.enqueue("free", allow_unknown=True, **options)
    await client.enqueue_many("free", [{}], **options)
    await client.enqueue_jobs([NewJob("free", **options), NewJob("free", timeout=timedelta(1), **options)])
    async with await psycopg.AsyncConnection.connect(dsn) as theirs:
        await client.enqueue("free", conn=theirs, **options)
    kept = await conn.fetch("select metadata::text as metadata, run_at from ingestd.job")
    (text,) = {row["metadata"] for row in kept}
    assert len(kept) == 7
    assert text.count(str(2**70)) == 1
    assert orjson.loads(text) == {"huge": float(2**70), "map": {"one": "1.5"}, "colour": "red", "on": "2027-01-01", "7": "1 day, 0:00:00"}
    assert {row["run_at"] for row in kept} == {east}


async def test_every_option_is_kept_through_every_entrance(client: Client, conn: asyncpg.Connection) -> None:
    options: dict[str, Any] = {
        "queue": "imports", "priority": "low", "delay": "90m", "unique_key": "k", "unique_until": "start", "unique_for": "2h",
        "max_attempts": 7, "timeout": "10m", "hard_timeout": "20m", "backoff": {"base": "5s", "cap": 60, "factor": 3, "jitter": 0},
        "key": "customer 7", "key_strict": True, "tags": ["a", "b"], "notes": "n", "metadata": {"m": [1, None]}, "correlation_id": "c",
        "parent_id": 12,
    }  # fmt: skip
    first = await client.enqueue("free", {"x": None}, **options)
    second = (await client.enqueue_many("free", [{"x": None}], unique_keys=["k2"], **(options | {"unique_key": None})))[0].id
    await conn.execute("delete from ingestd.unique_hold")
    third = await conn.fetchval(ENQUEUE, "free", {"x": None}, options | {"unique_key": "k3"})
    alike = await client.enqueue_many(
        "free", [{"x": None}], **(options | dict.fromkeys(("unique_key", "unique_until", "unique_for", "key", "key_strict")))
    )
    found = [dict(row) for row in await conn.fetch("select * from ingestd.job order by id")]
    assert [row["id"] for row in found] == [first.id, second, third, alike[0].id]
    for row, name in zip(found, ("k", "k2", "k3", None), strict=True):
        keyed = name is not None
        assert row["unique_key"] == name
        assert (row["unique_until"], row["key"], row["key_strict"]) == (("start", "customer 7", True) if keyed else ("finish", None, False))
        assert (row["rank"], row["max_attempts"], row["timeout"], row["hard_timeout"]) == (
            10, 7, timedelta(minutes=10), timedelta(minutes=20),
        )  # fmt: skip
        assert (row["tags"], row["notes"], row["metadata"], row["correlation_id"], row["parent_id"]) == (
            ["a", "b"], "n", {"m": [1, None]}, "c", 12,
        )  # fmt: skip
        assert (row["args"], row["run_at"] - row["created_at"], row["due_at"]) == ({"x": None}, timedelta(minutes=90), row["run_at"])
        assert Backoff(**row["backoff"]) == Backoff("5s", 3, 60, 0)
    assert [row["key"] for row in await conn.fetch("select key from ingestd.unique_hold")] == ["k3"]
