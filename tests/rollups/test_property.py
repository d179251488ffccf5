"""Whatever is done in whatever order, the view equals the recount, and so does the table once it is clean."""

from __future__ import annotations

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestd.postgres.session import connect
from ingestd.rollups.store import dirty
from ingestd.rollups.tend import tend
from tests.rollups import kit
from tests.support import draw_in_a_thread

ZONE = "America/New_York"
# around both changes of the clocks, at the edges of buckets, and nowhere
moments = st.one_of(
    st.none(),
    st.sampled_from(
        ["infinity", "-infinity", "2026-03-08 05:00+00", "2026-03-09 04:00+00", "2026-11-01 04:00+00", "2026-11-02 04:59:59.999999+00"]
    ),
    st.integers(0, 60).map(lambda hour: f"2026-03-0{7 + hour // 24} {hour % 24:02}:00:00-05"),
    st.integers(0, 100_000).map(lambda second: f"2026-11-01 0{second % 10}:{second % 60:02}:{second % 59:02}.5-04"),
)
stores = st.one_of(st.none(), st.integers(0, 3))
amounts = st.one_of(st.none(), st.integers(-50, 50))
row = st.tuples(moments, stores, amounts)
operation = st.one_of(
    st.tuples(st.just("insert"), st.lists(row, min_size=1, max_size=6)),
    st.tuples(st.just("move"), st.integers(0, 30), moments),
    st.tuples(st.just("change"), st.integers(0, 30), stores, amounts),
    st.tuples(st.just("delete"), st.integers(0, 30), st.integers(0, 10)),
    st.tuples(st.just("truncate")),
    st.tuples(st.just("rollback"), st.integers(0, 30)),
    st.tuples(st.just("normalise")),
    st.tuples(st.just("refresh"), st.sampled_from(["hourly", "daily"])),
    st.tuples(st.just("look")),
)
EXPECTED = {"hourly": kit.recount(), "daily": kit.recount("1 day", ZONE)}


async def perform(conn: asyncpg.Connection, step: tuple[object, ...]) -> None:
    match step:
        case ("insert", rows):
            await conn.executemany("insert into sales (at, store, amount) values ($1::text::timestamptz, $2, $3)", rows)
        case ("move", low, moment):
            await conn.execute("update sales set at = $2::text::timestamptz where id % 31 = $1", low, moment)
        case ("change", low, store, amount):
            await conn.execute("update sales set store = $2, amount = $3 where id % 31 >= $1", low, store, amount)
        case ("delete", low, many):
            await conn.execute("delete from sales where id % 31 between $1 and $1 + $2", low, many)
        case ("truncate",):
            await conn.execute("truncate sales")
        case ("rollback", low):
            transaction = conn.transaction()
            await transaction.start()
            await conn.execute("delete from sales where id % 31 < $1", low)
            await transaction.rollback()
        case ("normalise",):
            await dirty.normalise(conn)
        case ("refresh", name):
            await kit.refreshed(conn, str(name))
        case ("look",):
            for name, expected in EXPECTED.items():
                assert await kit.difference(conn, f"select * from rollups.{name}", expected) == []


async def test_any_sequence_of_changes_and_refreshes_ends_in_the_recount(dsn: str) -> None:
    conn = await connect(dsn)
    await conn.execute(kit.SALES)
    await kit.declared(conn, hourly=kit.rollup(), daily=kit.rollup(bucket="1 day", timezone=ZONE))
    await tend(conn)

    import asyncio

    loop = asyncio.get_running_loop()

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(operation, min_size=1, max_size=14))
    def holds(steps: list[tuple[object, ...]]) -> None:
        async def play() -> None:
            await conn.execute("truncate sales restart identity")
            for step in steps:
                await perform(conn, step)
            for name, expected in EXPECTED.items():
                await kit.exact(conn, name, expected)

        asyncio.run_coroutine_threadsafe(play(), loop).result(60)

    try:
        await draw_in_a_thread(holds)
    finally:
        await conn.close()
