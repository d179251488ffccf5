"""Promise 7 through a live daemon that is killed while it refreshes; tests/rollups has the interleavings."""

from __future__ import annotations

import random

import asyncpg

from tests.daemon.harness import Site
from tests.rollups import kit
from tests.support import eventually

START = "timestamptz '2026-10-24 12:00+00'"  # two days around the night when clocks go back
ZONE = "Europe/Amsterdam"
ROLLUP = """
[rollups.{name}]
source = "sales"
time = "at"
bucket = "{bucket}"
timezone = "{zone}"
group_by = ["store"]
max_staleness = "1s"
measures = {{ {measures} }}
"""
REFRESHES = "select count(*) from ingestd.history where kind = 'rollup'"
REFRESHING = "select 1 from ingestd.job where kind = 'rollup' and claim is not null"
WAITS = """
select count(*) > 0 from pg_locks l join pg_stat_activity a using (pid)
where not l.granted and l.relation = 'rollups.hourly_stored'::regclass and a.application_name like 'ingestd:%'"""
STILL_DIRTY = "select count(*) from ingestd.dirty"
KILLS = 2


def declared(name: str, bucket: str, zone: str) -> str:
    measures = ", ".join(f'{column} = "{measure}"' for column, measure in kit.MEASURES.items())
    return ROLLUP.format(name=name, bucket=bucket, zone=zone, measures=measures)


async def views_are_exact(conn: asyncpg.Connection) -> None:
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        assert await kit.difference(conn, "select * from rollups.hourly", kit.recount()) == []
        assert await kit.difference(conn, "select * from rollups.daily", kit.recount("1 day", ZONE)) == []


async def add(conn: asyncpg.Connection, first: int, count: int) -> None:
    """One row a minute."""
    minutes = f"select {START} + n * interval '1 minute', n % 5, n % 90 from generate_series({first}, {first + count}) n"
    await conn.execute(f"insert into sales (at, store, amount) {minutes}")


async def write(conn: asyncpg.Connection, dice: random.Random) -> None:
    """Rows that come, change, move and go, all over the time that there is."""
    await add(conn, dice.randrange(2500), 300)
    await conn.execute("update sales set amount = amount + 1, at = at + interval '70 minutes' where id % 17 = $1", dice.randrange(17))
    await conn.execute("delete from sales where id % 23 = $1", dice.randrange(23))


async def test_view_and_table_equal_the_recount_though_the_daemon_is_killed_while_it_refreshes(
    site: Site, conn: asyncpg.Connection
) -> None:
    site.configure(declared("hourly", "1 hour", "UTC") + declared("daily", "1 day", ZONE))
    await conn.execute(kit.SALES)
    await add(conn, 1, 3000)
    dice = random.Random(7)
    daemon = await site.start()
    await eventually(
        lambda: conn.fetchval("select count(*) = 2 from pg_views where schemaname = 'rollups' and viewname in ('hourly', 'daily')")
    )
    for _ in range(KILLS):
        await write(conn, dice)
        # It cannot write what it has counted while this is held: it is hit at work, however fast it is.
        async with site.connection() as holding, holding.transaction():
            await holding.execute("lock table rollups.hourly_stored in share mode")
            await eventually(lambda: conn.fetchval(WAITS), saying="a refresh is under way")
            daemon.kill()
            await views_are_exact(conn)
        await write(conn, dice)
        await views_are_exact(conn)
        daemon = await site.start()
    await views_are_exact(conn)

    async def clean() -> bool:
        return await conn.fetchval(STILL_DIRTY) == 0 and await conn.fetchval(REFRESHING) is None

    await eventually(clean)
    await views_are_exact(conn)
    assert await kit.difference(conn, kit.stored("hourly"), kit.recount()) == []
    assert await kit.difference(conn, kit.stored("daily"), kit.recount("1 day", ZONE)) == []
    assert await daemon.stop() == 0
