"""`ingestd.enqueue()` and `ingestd.enqueue_many()`: what any language that speaks SQL may rely on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from ingestd.jobs.backoff import Backoff, stored_backoff
from ingestd.postgres.session import connect

ENQUEUE = "select ingestd.enqueue($1, $2, $3)"
MANY = "select * from ingestd.enqueue_many($1)"


async def job(conn: asyncpg.Connection, number: int) -> asyncpg.Record:
    found = await conn.fetchrow(
        "select j.*, q.name as queue from ingestd.job j join ingestd.queue q on q.id = j.queue_id where j.id = $1", number
    )
    assert found is not None
    return found


async def test_a_kind_is_enough(conn: asyncpg.Connection) -> None:
    row = await job(conn, await conn.fetchval("select ingestd.enqueue('sync')"))
    assert (row["kind"], row["args"], row["queue"], row["rank"], row["max_attempts"], row["triggered_by"]) == (
        "sync",
        {},
        "default",
        0,
        4,
        "sql",
    )
    assert (row["tags"], row["notes"], row["metadata"], row["unique_key"], row["claim"], row["parked"]) == ([], None, None, None, None, 0)
    assert row["run_at"] == row["due_at"] == row["created_at"]


async def test_every_option_is_kept(conn: asyncpg.Connection) -> None:
    options = {
        "queue": "imports",
        "priority": "high",
        "run_at": "2031-01-02T03:04:05+02:00",
        "unique_key": "k",
        "max_attempts": 7,
        "tags": ["a", "b"],
        "notes": "n",
        "metadata": {"m": [1, None]},
        "correlation_id": "c",
    }
    row = await job(conn, await conn.fetchval(ENQUEUE, "sync", {"x": 1}, options))
    assert (row["queue"], row["rank"], row["unique_key"], row["max_attempts"]) == ("imports", -10, "k", 7)
    assert row["run_at"].isoformat() == row["due_at"].isoformat() == "2031-01-02T01:04:05+00:00"
    assert (row["tags"], row["notes"], row["metadata"], row["correlation_id"], row["args"]) == (
        ["a", "b"],
        "n",
        {"m": [1, None]},
        "c",
        {"x": 1},
    )


async def test_options_that_are_null_are_options_not_given(conn: asyncpg.Connection) -> None:
    names = ("queue", "priority", "run_at", "unique_key", "max_attempts", "tags", "notes", "metadata", "correlation_id")
    row = await job(conn, await conn.fetchval(ENQUEUE, "sync", {}, dict.fromkeys(names)))
    assert (row["queue"], row["rank"], row["max_attempts"], row["tags"], row["metadata"]) == ("default", 0, 4, [], None)


async def test_a_published_kind_brings_its_defaults_and_options_win_over_them(conn: asyncpg.Connection) -> None:
    await conn.execute("insert into ingestd.kind (name, queue, priority, max_attempts) values ('sync', 'rollups', 5, 9)")
    row = await job(conn, await conn.fetchval("select ingestd.enqueue('sync')"))
    assert (row["queue"], row["rank"], row["max_attempts"]) == ("rollups", -5, 9)
    row = await job(conn, await conn.fetchval(ENQUEUE, "sync", {}, {"queue": "alerts", "priority": -3, "max_attempts": 1}))
    assert (row["queue"], row["rank"], row["max_attempts"]) == ("alerts", 3, 1)


@pytest.mark.parametrize(("priority", "rank"), [("low", 10), ("normal", 0), ("high", -10), (-100, 100), (100, -100), ("7", -7)])
async def test_priorities_are_words_or_numbers(conn: asyncpg.Connection, priority: Any, rank: int) -> None:
    assert (await job(conn, await conn.fetchval(ENQUEUE, "sync", {}, {"priority": priority})))["rank"] == rank


@pytest.mark.parametrize(
    ("kind", "args", "options", "said"),
    [
        ("", {}, {}, 'a job needs a "kind"'),
        (None, {}, {}, 'a job needs a "kind"'),
        ("sync", [], {}, "args must be a JSON object"),
        ("sync", "text", {}, "args must be a JSON object"),
        ("sync", {}, [], "options must be a JSON object"),
        ("sync", {}, {"kind": "other"}, "kind and args are arguments of ingestd.enqueue"),
        ("sync", {}, {"prioritty": 1}, 'unknown enqueue option "prioritty"'),
        ("sync", {}, {"queue": "fast"}, 'unknown queue "fast"'),
        ("sync", {}, {"priority": 101}, 'priority "101" is not low, normal, high or -100..100'),
        ("sync", {}, {"priority": 1.5}, 'priority "1.5" is not'),
        ("sync", {}, {"priority": True}, "priority must be a string"),
        ("sync", {}, {"priority": "urgent"}, 'priority "urgent" is not'),
        ("sync", {}, {"run_at": "soon"}, 'run_at "soon" is not a timestamp'),
        ("sync", {}, {"run_at": "infinity"}, 'run_at "infinity" is not a timestamp'),
        ("sync", {}, {"max_attempts": 0}, 'max_attempts "0" is not 1 to 32767'),
        ("sync", {}, {"max_attempts": "3"}, "max_attempts must be a number"),
        ("sync", {}, {"max_attempts": 2**40}, "is not 1 to 32767"),
        ("sync", {}, {"backoff": {"base": 1e10}}, "backoff takes base and cap"),
        ("sync", {}, {"backoff": {"base": "11575d"}}, "backoff takes base and cap"),
        ("sync", {}, {"backoff": {"base": "11574d1w"}}, "backoff takes base and cap"),
        ("sync", {}, {"backoff": {"cap": "1s" * 31}}, "backoff takes base and cap"),
        ("sync", {}, {"tags": "a"}, "tags must be an array of strings"),
        ("sync", {}, {"tags": [1]}, "tags must be an array of strings"),
        ("sync", {}, {"metadata": [1]}, "metadata must be a JSON object"),
        ("sync", {}, {"unique_key": 5}, "unique_key must be a string"),
        ("sync", {}, {"notes": {}}, "notes must be a string"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_words_and_nothing_is_stored(
    conn: asyncpg.Connection, kind: Any, args: Any, options: Any, said: str
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
        await conn.fetchval(ENQUEUE, kind, args, options)
    assert said in str(refused.value)
    assert await conn.fetchval("select count(*) from ingestd.job") == 0


@pytest.mark.parametrize("base", ["11574d", "999999999s", "1h30m", "1.5h500ms", "1w1d"])
async def test_a_backoff_that_sql_takes_is_one_that_nodes_read(conn: asyncpg.Connection, base: str) -> None:
    row = await job(conn, await conn.fetchval(ENQUEUE, "sync", {}, {"backoff": {"base": base, "cap": "11574d"}}))
    kinds = Backoff()
    assert stored_backoff(row["backoff"], kinds) is not kinds


async def test_one_bad_job_among_many_stores_none(conn: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="unknown queue"):
        await conn.fetch(MANY, [{"kind": "a"}, {"kind": "b", "queue": "fast"}])
    assert await conn.fetchval("select count(*) from ingestd.job") == 0
    for text in ("{}", '"a"', "null"):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="expects a JSON array"):
            await conn.fetch("select * from ingestd.enqueue_many($1::text::jsonb)", text)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="expects a JSON array"):
        await conn.fetch("select * from ingestd.enqueue_many(null)")


async def test_ids_come_in_the_order_of_the_array(conn: asyncpg.Connection) -> None:
    jobs = [{"kind": f"k{number}", "unique_key": "same" if number in (2, 5) else None} for number in range(8)]
    ids = [row[0] for row in await conn.fetch(MANY, jobs)]
    assert ids[5] == ids[2]
    kinds = {row["id"]: row["kind"] for row in await conn.fetch("select id, kind from ingestd.job")}
    assert [kinds[number] for number in ids] == ["k0", "k1", "k2", "k3", "k4", "k2", "k6", "k7"]
    assert sorted(set(ids)) == list(dict.fromkeys(ids))
    assert await conn.fetch(MANY, []) == []


async def test_a_unique_key_answers_with_the_open_job_until_that_is_final(conn: asyncpg.Connection) -> None:
    first = await conn.fetchval(ENQUEUE, "sync", {}, {"unique_key": "k"})
    assert await conn.fetchval(ENQUEUE, "other", {}, {"unique_key": "k"}) == first
    await conn.execute("delete from ingestd.job")
    assert await conn.fetchval(ENQUEUE, "sync", {}, {"unique_key": "k"}) != first


async def test_callers_with_one_unique_key_at_once_get_one_job(dsn: str, conn: asyncpg.Connection) -> None:
    others = [await connect(dsn) for _ in range(6)]
    try:
        ids = await asyncio.gather(*(one.fetchval(ENQUEUE, "sync", {}, {"unique_key": "k"}) for one in others for _ in range(1)))
        assert len(set(ids)) == 1
        assert None not in ids
    finally:
        for one in others:
            await one.close()


async def test_a_caller_behind_an_open_transaction_gets_that_job_or_its_own(dsn: str, conn: asyncpg.Connection) -> None:
    """Never null: the holder may commit, roll back or finish between the two statements."""
    for end in ("commit", "rollback"):
        other = await connect(dsn)
        try:
            await conn.execute("begin")
            mine = await conn.fetchval(ENQUEUE, "sync", {}, {"unique_key": end})
            waiting = asyncio.create_task(other.fetchval(ENQUEUE, "sync", {}, {"unique_key": end}))
            await conn.execute(end)
            theirs = await waiting
            assert theirs is not None
            assert (theirs == mine) == (end == "commit")
        finally:
            await other.close()


async def test_nodes_are_woken_once_a_queue_and_only_for_work_that_is_due(dsn: str, conn: asyncpg.Connection) -> None:
    heard: list[str] = []
    listener = await connect(dsn)
    await conn.execute("insert into ingestd.node_idle (node, queues) select gen_random_uuid(), array_agg(id) from ingestd.queue")
    try:
        await listener.add_listener("ingestd_job", lambda *message: heard.append(message[3]))
        await conn.fetch(
            MANY, [{"kind": "a"}] * 5 + [{"kind": "a", "queue": "imports"}, {"kind": "a", "queue": "alerts", "run_at": "2031-01-01 00:00Z"}]
        )
        await listener.fetchval("select 1")
        names = {str(row["id"]): row["name"] for row in await conn.fetch("select id, name from ingestd.queue")}
        assert sorted(names[payload.split(" ")[0]] for payload in heard) == ["default", "imports"]
    finally:
        await listener.close()


async def test_a_job_belongs_to_the_callers_transaction(dsn: str, conn: asyncpg.Connection) -> None:
    other = await connect(dsn)
    try:
        async with conn.transaction():
            await conn.fetchval("select ingestd.enqueue('sync')")
            assert await other.fetchval("select count(*) from ingestd.job") == 0
        assert await other.fetchval("select count(*) from ingestd.job") == 1
    finally:
        await other.close()


async def test_nothing_in_a_callers_search_path_is_run_with_our_rights(conn: asyncpg.Connection) -> None:
    await conn.execute(
        "create schema evil; create function evil.now() returns timestamptz language sql as $$ select 'infinity'::timestamptz $$"
    )
    await conn.execute("set search_path = evil, pg_catalog, public")
    row = await job(conn, await conn.fetchval("select ingestd.enqueue('sync')"))
    assert row["run_at"].year < 9999


async def test_args_hold_whatever_json_holds(conn: asyncpg.Connection) -> None:
    args = {"ö": [None, True, 1.5, "'; drop table ingestd.job; --"], "deep": json.loads("[" * 62 + "]" * 62)}
    assert (await job(conn, await conn.fetchval(ENQUEUE, "sync", args, {})))["args"] == args
