"""Buckets as zones have them: days of 23 and 25 hours, both hours of a night when clocks go back, times without zone."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import pytest

from tests.rollups import kit

QUARTERS = """
insert into sales (at, store, amount)
select at, 1, 1 from generate_series(timestamptz '{start}', timestamptz '{start}' + interval '4 days' - interval '1 microsecond',
                                     interval '15 minutes') at"""


@pytest.mark.parametrize(
    ("zone", "start", "day", "hours"),
    [
        ("America/New_York", "2026-03-07 00:00-05", "2026-03-08", 23),
        ("America/New_York", "2026-10-31 00:00-04", "2026-11-01", 25),
        ("Europe/London", "2026-03-28 00:00+00", "2026-03-29", 23),
        ("Europe/London", "2026-10-24 00:00+01", "2026-10-25", 25),
        ("Australia/Lord_Howe", "2026-04-04 00:00+11", "2026-04-05", 24.5),
        ("America/Havana", "2026-10-31 00:00-04", "2026-11-01", 25),  # midnight comes twice
        ("America/Sao_Paulo", "2018-11-03 00:00-03", "2018-11-04", 23),  # midnight does not exist
        ("Asia/Kathmandu", "2026-05-01 00:00+05:45", "2026-05-02", 24),
    ],
)
async def test_a_day_has_the_hours_that_its_zone_gives_it(conn: asyncpg.Connection, zone: str, start: str, day: str, hours: float) -> None:
    await conn.execute(kit.SALES)
    await conn.execute(QUARTERS.format(start=start))
    await kit.declared(conn, daily=kit.rollup(bucket="1 day", timezone=zone))
    await kit.exact(conn, "daily", kit.recount("1 day", zone))
    local = await conn.fetch("select (bucket at time zone $1)::date::text as day, n from rollups.daily order by bucket", zone)
    found = {row["day"]: row["n"] / 4 for row in local}
    assert len(found) >= 4
    assert found[day] == hours
    await conn.execute(f"update sales set amount = 2 where (at at time zone '{zone}')::date = '{day}' and id % 2 = 0")
    await kit.exact(conn, "daily", kit.recount("1 day", zone))
    # one row alone, in the first and the last quarter of that day: a change must find its bucket from anywhere in it
    for order in ("asc", "desc"):
        await conn.execute(
            f"delete from sales where id = "
            f"(select id from sales where (at at time zone '{zone}')::date = '{day}' order by at {order} limit 1)"
        )
        await kit.exact(conn, "daily", kit.recount("1 day", zone))


async def test_both_hours_of_the_night_when_clocks_go_back_stay_apart(conn: asyncpg.Connection) -> None:
    await conn.execute(kit.SALES)
    await conn.execute(QUARTERS.format(start="2026-10-24 00:00+02"))
    await kit.declared(conn, hourly=kit.rollup(timezone="Europe/Amsterdam"))
    await kit.settled(conn, "hourly")
    rows = await conn.fetch(
        "select bucket, n from rollups.hourly where (bucket at time zone 'Europe/Amsterdam')::time = '02:00' "
        "and (bucket at time zone 'Europe/Amsterdam')::date = '2026-10-25' order by bucket"
    )
    assert [(row["bucket"], row["n"]) for row in rows] == [
        (datetime(2026, 10, 25, 0, tzinfo=UTC), 4),
        (datetime(2026, 10, 25, 1, tzinfo=UTC), 4),
    ]


@pytest.mark.parametrize("session", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
async def test_the_time_zone_of_a_writer_or_reader_changes_nothing(conn: asyncpg.Connection, session: str) -> None:
    await conn.execute(kit.SALES)
    await kit.declared(conn, daily=kit.rollup(bucket="1 day", timezone="America/New_York"))
    await conn.execute(f"set timezone = '{session}'; set datestyle = 'German, DMY'")
    await conn.execute(QUARTERS.format(start="2026-10-31 00:00-04"))
    assert await kit.difference(conn, "select * from rollups.daily", kit.recount("1 day", "America/New_York")) == []
    await kit.settled(conn, "daily")
    await conn.execute("delete from sales where id % 3 = 0")
    await kit.exact(conn, "daily", kit.recount("1 day", "America/New_York"))


@pytest.mark.parametrize("kind", ["timestamp", "date"])
@pytest.mark.parametrize("bucket", ["1 day", "6 hours"])
async def test_times_without_zone_are_read_in_the_rollups_zone(conn: asyncpg.Connection, kind: str, bucket: str) -> None:
    zone = "America/New_York"
    await conn.execute(f"create table public.readings (id int generated always as identity, at {kind}, v int)")
    await conn.execute(
        "insert into readings (at, v) select timestamp '2026-10-28' + n * interval '100 minutes', n from generate_series(1, 200) n"
    )
    await kit.declared(
        conn, naive=kit.rollup(source="readings", bucket=bucket, timezone=zone, group_by=[], measures={"n": "count(*)", "v": "sum(v)"})
    )
    moment = f"(at::timestamp at time zone '{zone}')"
    key = f"date_trunc('day', {moment}, '{zone}')" if bucket == "1 day" else f"date_bin('{bucket}', {moment}, 'epoch')"
    expected = f"select {key} bucket, count(*) n, sum(v) v from readings where isfinite(at) group by 1"
    for change in (
        "select 1",
        "update readings set at = at + interval '1 day' where id % 7 = 0",
        "delete from readings where at = (select max(at) from readings)",
        "insert into readings (at, v) values ('infinity', 1), ('-infinity', 1), (null, 1), ('2026-11-01', 5)",
    ):
        await conn.execute(change)
        assert await kit.difference(conn, "select * from rollups.naive", expected) == []
        await kit.settled(conn, "naive")
        assert await kit.difference(conn, "select * from rollups.naive_stored", expected) == []
