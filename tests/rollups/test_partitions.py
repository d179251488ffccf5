"""Rollups over partitioned tables: rows come and go with whole partitions, which no trigger sees."""

from __future__ import annotations

import asyncpg
import pytest

from ingestd.postgres.session import connect
from ingestd.rollups.tend import tend
from tests.rollups import kit

FILL = (
    "insert into sales (at, store, amount) select timestamptz '2026-01-01' + n * interval '1 hour', n % 3, n from generate_series(1, 200) n"
)
DETACH = "alter table sales detach partition sales_1"
ATTACH = "alter table sales attach partition sales_1 for values from ('2026-01-01') to ('2026-02-01')"


@pytest.fixture
async def parted(conn: asyncpg.Connection) -> asyncpg.Connection:
    await conn.execute(
        "create table public.sales (id bigint, at timestamptz not null, store int, "
        "amount numeric(12,2), note text) "
        "partition by range (at);"
        "create table public.sales_1 partition of sales for values from ('2026-01-01') to ('2026-02-01');"
        "create table public.sales_2 partition of sales for values from ('2026-02-01') to ('2026-03-01')"
    )
    await kit.declared(conn, hourly=kit.rollup())
    return conn


async def test_a_partitioned_source_is_followed_through_every_door(parted: asyncpg.Connection) -> None:
    for change in (
        FILL,
        "insert into sales_2 (at, store, amount) values ('2026-02-03', 1, 1)",
        "update sales_1 set amount = 9 where store = 2",
        "update sales set at = at + interval '1 month' where at < '2026-01-02'",
        "delete from sales_2 where store = 2",
        "truncate sales_2",
    ):
        await parted.execute(change)
        await kit.exact(parted, "hourly", kit.recount())
    await parted.execute(
        "create table public.sales_3 (like sales); "
        "insert into sales_3 (at, store, amount) values ('2026-03-03', 1, 1), ('2026-03-05', 1, 1);"
        "alter table sales attach partition sales_3 for values from ('2026-03-01') to ('2026-04-01')"
    )
    await tend(parted)
    await kit.exact(parted, "hourly", kit.recount())
    await parted.execute("insert into sales_3 (at, store, amount) values ('2026-03-04', 1, 1)")
    await kit.exact(parted, "hourly", kit.recount())


async def test_buckets_go_with_a_partition_and_come_back_with_it(parted: asyncpg.Connection) -> None:
    await parted.execute(FILL)
    for change in (
        DETACH,
        "update sales_1 set amount = 3",
        ATTACH,
        f"{DETACH}; update sales_1 set amount = 4; {ATTACH}",
        "drop table sales_1",
    ):
        await parted.execute(change)
        await tend(parted)
        await kit.exact(parted, "hourly", kit.recount())
    assert await tend(parted) == 0


async def test_whoever_reads_a_partition_that_has_left_holds_up_no_rollup(parted: asyncpg.Connection, dsn: str) -> None:
    await parted.execute(f"{FILL}; {DETACH}")
    reader = await connect(dsn)
    try:
        async with reader.transaction():
            await reader.fetch("select from sales_1")
            await tend(parted)
            await kit.exact(parted, "hourly", kit.recount())
        await parted.execute(f"delete from sales_1 where store = 1; {ATTACH}")
        await tend(parted)
        await kit.exact(parted, "hourly", kit.recount())
    finally:
        await reader.close()
