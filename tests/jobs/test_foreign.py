"""Jobs in somebody else's transaction: psycopg connections, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from ingestd import Client, SyncClient
from ingestd.cause import REQUEST
from ingestd.errors import InvalidInput, UsageError
from ingestd.postgres.migrate import grant

NUMBERS = "select array_agg((args ->> 'n')::int order by id) from ingestd.job"


@pytest.fixture
async def client(dsn: str, conn: asyncpg.Connection) -> AsyncIterator[Client]:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
    await conn.execute("insert into ingestd.kind (name, queue, priority, arguments) values ('sync', 'imports', 3, $1)", schema)
    async with Client(dsn) as opened:
        yield opened


@pytest.fixture
def sync_client(dsn: str, client: Client) -> Iterator[SyncClient]:
    with SyncClient(dsn) as opened:
        yield opened


@pytest.fixture
async def role(conn: asyncpg.Connection) -> AsyncIterator[str]:
    """A role that may enqueue, and nothing else."""
    name = f"shop_{conn.get_server_pid()}"
    await conn.execute(f"create role {name} login")
    await grant(conn, name)
    yield name
    await conn.execute(f"drop owned by {name}; drop role {name}")


async def test_jobs_commit_and_roll_back_with_a_psycopg_transaction(client: Client, conn: asyncpg.Connection, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row) as theirs:
        await client.enqueue("sync", {"n": 1}, conn=theirs)
        await theirs.rollback()
        async with theirs.transaction():
            one = await client.enqueue("sync", {"n": 2}, conn=theirs, priority="high", metadata={"m": [None]}, unique_key="k")
            again = await client.enqueue("sync", {"n": 2}, conn=theirs, unique_key="k")
            many = await client.enqueue_many("sync", [{"n": 3}, {"n": 4}], conn=theirs, tags=["t"])
            assert await conn.fetchval(NUMBERS) is None, "nobody else may see it before the commit"
    assert await conn.fetchval(NUMBERS) == [2, 3, 4]
    assert (one.created, again.created, again.id) == (True, False, one.id)
    row = await conn.fetchrow("select * from ingestd.job where id = $1", one.id)
    assert (row["rank"], row["metadata"], row["triggered_by"]) == (-10, {"m": [None]}, "sql")
    assert [handle.created for handle in many] == [True, True]


async def test_the_sync_client_does_the_same(sync_client: SyncClient, conn: asyncpg.Connection, dsn: str) -> None:
    def work() -> list[int]:
        with psycopg.connect(dsn, row_factory=dict_row) as theirs:
            sync_client.enqueue("sync", {"n": 1}, conn=theirs)
            theirs.rollback()
            one = sync_client.enqueue("sync", {"n": 2}, conn=theirs, delay="10m")
            return [one.id, *(other.id for other in sync_client.enqueue_many("sync", [{"n": 3}], conn=theirs, unique_keys=["a"]))]

    ids = await asyncio.to_thread(work)
    assert await conn.fetchval(NUMBERS) == [2, 3]
    assert [row["id"] for row in await conn.fetch("select id from ingestd.job order by id")] == ids


async def test_what_a_job_enqueues_without_an_event_loop_shares_its_correlation_id(
    sync_client: SyncClient, conn: asyncpg.Connection
) -> None:
    """The client's loop is in another thread: what happens there happens for whoever called."""

    def work(name: str) -> None:
        REQUEST.set(name)
        sync_client.enqueue("sync", {"n": 1})
        sync_client.enqueue_many("sync", [{"n": 2}])

    await asyncio.to_thread(work, "one")
    await asyncio.to_thread(work, "two")
    found = await conn.fetch("select correlation_id from ingestd.job order by id")
    assert [row["correlation_id"] for row in found] == ["one", "one", "two", "two"]


async def test_a_role_that_may_only_enqueue_is_enough_for_the_callers_connection(
    client: Client, conn: asyncpg.Connection, dsn: str, role: str
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as theirs:
        await theirs.execute(f"set role {role}")
        await client.enqueue("sync", {"n": 1}, conn=theirs)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await theirs.execute("select count(*) from ingestd.job")
    assert await conn.fetchval(NUMBERS) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "snyc"}, "did you mean"),
        ({"args": {"n": "five"}}, '"n" must be a whole number'),
        ({"args": {"n": 1, "m": 2}}, 'unexpected "m"'),
        ({"queue": "fast"}, r'queue "fast"; declare it as \[queues.fast\] in the configuration$'),
        ({"queue": "a\0"}, "queue holds a NUL"),
        ({"queue": 5}, "queue must be a string"),
        ({"delay": "-1s"}, "negative"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_the_same_words(client: Client, dsn: str, options: dict[str, Any], said: str) -> None:
    asked = {"kind": "sync", "args": {"n": 1}} | options
    async with await psycopg.AsyncConnection.connect(dsn) as theirs:
        with pytest.raises(InvalidInput, match=said):
            await client.enqueue(asked.pop("kind"), asked.pop("args"), conn=theirs, **asked)
        await client.enqueue("sync", {"n": 1}, conn=theirs)


async def test_a_queue_that_is_missing_leaves_the_callers_transaction_open(
    client: Client, sync_client: SyncClient, conn: asyncpg.Connection, dsn: str, role: str
) -> None:
    await conn.execute("insert into ingestd.kind (name, queue) values ('lost', 'nowhere')")
    granted = f"{dsn}{'&' if '?' in dsn else '?'}role={role}"

    def work() -> None:
        with psycopg.connect(dsn) as theirs, SyncClient(granted) as shop:
            theirs.execute("create temp table mine as select 1 as one")
            for asked in (sync_client, shop):
                with pytest.raises(InvalidInput, match='there is no queue "fast"'):
                    asked.enqueue("sync", {"n": 1}, conn=theirs, queue="fast")
                with pytest.raises(InvalidInput, match='"nowhere", which is that of the kind "lost"'):
                    asked.enqueue_many("lost", [{}], conn=theirs)
                with pytest.raises(InvalidInput, match='there is no queue "fast"'):
                    asked.enqueue("never seen", conn=theirs, queue="fast", allow_unknown=True)
                asked.enqueue("sync", {"n": 2}, conn=theirs, queue="imports")
                asked.enqueue("never seen", {"n": 3}, conn=theirs, allow_unknown=True)
            assert theirs.execute("select one from mine").fetchall() == [(1,)]

    await asyncio.to_thread(work)
    assert await conn.fetchval(NUMBERS) == [2, 3, 2, 3]


async def test_a_role_that_was_let_in_before_it_could_look_for_queues_hears_of_them_from_the_server(
    client: Client, conn: asyncpg.Connection, dsn: str, role: str
) -> None:
    await conn.execute(f"revoke all on ingestd.queue from {role}; revoke select (name) on ingestd.queue from {role}")
    async with (
        Client(f"{dsn}{'&' if '?' in dsn else '?'}role={role}") as shop,
        await psycopg.AsyncConnection.connect(dsn) as theirs,
    ):
        await shop.enqueue("sync", {"n": 1}, conn=theirs, queue="imports")
        with pytest.raises(InvalidInput, match='queue "fast"; declare it as'):
            await shop.enqueue("sync", {"n": 1}, conn=theirs, queue="fast")
        await theirs.rollback()
        # It does not look again and again: each time the server would write down that it refused.
        await conn.execute(f"grant select (name) on ingestd.queue to {role}")
        with pytest.raises(InvalidInput, match='queue "fast"; declare it as'):
            await shop.enqueue("sync", {"n": 1}, conn=theirs, queue="fast")
        assert theirs.info.transaction_status is TransactionStatus.INERROR, "it was the server that refused"


async def test_the_wrong_sort_of_connection_is_told(client: Client, sync_client: SyncClient, conn: asyncpg.Connection, dsn: str) -> None:
    with psycopg.connect(dsn) as blocking, pytest.raises(UsageError, match=r"ingestd\.SyncClient takes the others"):
        await client.enqueue("sync", {"n": 1}, conn=blocking)
    with pytest.raises(UsageError, match=r"ingestd\.Client takes the async ones"):
        await asyncio.to_thread(sync_client.enqueue, "sync", {"n": 1}, conn=conn)
    async with await psycopg.AsyncConnection.connect(dsn) as theirs:
        with pytest.raises(UsageError, match=r"ingestd\.Client takes the async ones"):
            await asyncio.to_thread(sync_client.enqueue, "sync", {"n": 1}, conn=theirs)
