"""History's partitions: made ahead, made when missing, dropped when their time has passed."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from ingestd.jobs.model import State
from ingestd.jobs.store import partitions
from ingestd.postgres.session import connect
from tests.jobs.kit import end, new

BOUNDS = "select pg_get_expr(relpartbound, oid) from pg_class where relname ~ '^history_(ok|bad)_' and relispartition and relkind = 'r'"
NAMES = "select relname from pg_class where relname ~ '^history_(ok|bad)_' and relkind = 'r' order by relname"


async def names(conn: asyncpg.Connection, prefix: str) -> list[str]:
    return [row[0] for row in await conn.fetch(NAMES) if row[0].startswith(prefix)]


async def drop_all(conn: asyncpg.Connection) -> None:
    for name in await names(conn, "history"):
        await conn.execute(f"drop table ingestd.{name}")


async def test_days_and_months_are_made_ahead_and_only_once(conn: asyncpg.Connection) -> None:
    await drop_all(conn)
    assert await partitions.make_partitions(conn, 3) == 10
    assert await partitions.make_partitions(conn, 3) == 0
    assert (len(await names(conn, "history_ok")), len(await names(conn, "history_bad"))) == (5, 5)


async def test_several_nodes_may_make_them_at_once(conn: asyncpg.Connection, dsn: str) -> None:
    await drop_all(conn)
    nodes = [await connect(dsn) for _ in range(4)]
    try:
        assert sum(await asyncio.gather(*(partitions.make_partitions(node, 3) for node in nodes))) == 10
    finally:
        for node in nodes:
            await node.close()


@pytest.mark.parametrize(("state", "prefix"), [(State.SUCCEEDED, "history_ok"), (State.FAILED, "history_bad")])
async def test_an_ack_that_finds_no_partition_makes_it(conn: asyncpg.Connection, state: State, prefix: str) -> None:
    await drop_all(conn)
    number = await new(conn)
    await end(conn, number, state)
    assert await conn.fetchval("select state from ingestd.history where id = $1", number) == state
    assert await names(conn, prefix)


async def test_bounds_are_utc_whatever_the_session_says(conn: asyncpg.Connection) -> None:
    await drop_all(conn)
    await conn.execute("set timezone = 'Pacific/Kiritimati'")
    await partitions.make_partitions(conn, 0)
    await conn.execute("set timezone = 'UTC'")
    bounds = await conn.fetch(BOUNDS)
    assert len(bounds) == 4
    assert all(row[0].count("00:00:00+00") == 2 for row in bounds)
