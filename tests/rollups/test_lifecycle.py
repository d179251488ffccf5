"""How rollups come, change and go: waiting, building, succession, removal, and what others do to the tables meanwhile."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from ingestd.errors import Conflict
from ingestd.postgres.session import connect
from ingestd.rollups import declare, reads
from ingestd.rollups.store import dirty
from ingestd.rollups.tend import detach, reattach, tend
from tests.rollups import kit

FILL = (
    "insert into sales (at, store, amount) select timestamptz '2026-01-01' + n * interval '1 hour', n % 3, n from generate_series(1, 200) n"
)


@pytest.fixture
async def hourly(conn: asyncpg.Connection) -> asyncpg.Connection:
    await conn.execute(kit.SALES)
    await conn.execute(FILL)
    await kit.declared(conn, hourly=kit.rollup())
    await kit.settled(conn, "hourly")
    return conn


async def retend(conn: asyncpg.Connection) -> None:
    """Tend as if the wait after a failure were over."""
    await conn.execute("update ingestd.rollup set retry_at = '-infinity'")
    await tend(conn)


async def triggers(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("select count(*) from pg_trigger where tgname like 'ingestd%'"))


async def test_a_rollup_waits_for_its_table_and_is_built_when_it_comes(conn: asyncpg.Connection) -> None:
    await kit.declared(conn, hourly=kit.rollup())
    status = await reads.rollup_status(conn, "hourly")
    assert (status.state, status.reason) == ("waiting", "table public.sales does not exist yet")
    assert await reads.series(conn, "hourly", "n") == []
    await conn.execute(kit.SALES)
    await tend(conn)
    assert (await reads.rollup_status(conn, "hourly")).state == "building"
    await conn.execute(FILL)
    await kit.exact(conn, "hourly", kit.recount())
    status = await reads.rollup_status(conn, "hourly")
    assert (status.state, status.reason) == ("current", None)


async def test_a_missing_column_is_waited_for_and_named_with_a_suggestion(conn: asyncpg.Connection) -> None:
    await conn.execute(kit.SALES)
    await kit.declared(conn, hourly=kit.rollup(measures={"kwh": "sum(amountt)"}))
    assert (await reads.rollup_status(conn, "hourly")).reason == 'there is no column "amountt" in public.sales yet, did you mean "amount"?'
    await conn.execute("alter table sales add amountt int")
    await retend(conn)
    assert (await reads.rollup_status(conn, "hourly")).state == "building"


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"measures": {"x": "sum(note)"}}, "function sum(text) does not exist"),
    ({"measures": {"x": "avg(note)"}}, 'cannot average "note" of public.sales: it is text, not a number'),
    ({"time": "note"}, 'time column "note" of public.sales is text; it must be timestamptz, timestamp or date'),
    ({"where": "amount >"}, "syntax error"),
    ({"where": "amount > 1)) from sales group by 1) x; drop table sales".replace(";", "")}, "syntax error"),
    ({"where": "nonsense = 1"}, 'column "nonsense" does not exist'),
    ({"source": "sales_view"}, "public.sales_view is not a table"),
    ({"source": "nowhere.sales"}, "table nowhere.sales does not exist yet"),
]


async def test_what_postgres_refuses_is_a_reason_and_holds_up_nobody_else(conn: asyncpg.Connection) -> None:
    await conn.execute(kit.SALES)
    await conn.execute("create view public.sales_view as select * from sales")
    bad = {f"bad{number}": kit.rollup(**changes) for number, (changes, _) in enumerate(REFUSED)}
    await kit.declared(conn, **bad, good=kit.rollup())
    for number, (_, reason) in enumerate(REFUSED):
        status = await reads.rollup_status(conn, f"bad{number}")
        assert status.state == "waiting"
        assert reason in str(status.reason)
    assert (await reads.rollup_status(conn, "good")).state == "building"
    assert await conn.fetchval("show transaction_read_only") == "off"


async def test_a_where_cannot_write(conn: asyncpg.Connection) -> None:
    await conn.execute(kit.SALES)
    await conn.execute("create table public.witness (n int)")
    await conn.execute(
        "create function public.meddle() returns boolean language plpgsql immutable as "
        "$$ begin insert into witness values (1); return true; end $$"
    )
    await kit.declared(conn, bad=kit.rollup(where="meddle()"))
    assert await conn.fetchval("select count(*) from witness") == 0


async def test_declaring_the_same_again_changes_nothing(hourly: asyncpg.Connection) -> None:
    before = await hourly.fetch("select xmin, * from ingestd.rollup")
    assert await declare.apply(hourly, {"hourly": kit.rollup()}) == declare.Applied()
    assert await tend(hourly) == 0
    assert await hourly.fetch("select xmin, * from ingestd.rollup") == before
    assert await hourly.fetchval("select count(*) from ingestd.dirty") == 0


async def test_a_changed_spec_is_built_beside_the_old_one_and_swapped_when_complete(hourly: asyncpg.Connection) -> None:
    await hourly.execute("grant select on rollups.hourly to public")
    changed = kit.rollup(bucket="1 day", timezone="Europe/London")
    applied = await declare.apply(hourly, {"hourly": changed})
    assert applied.changed == ("hourly",)
    await tend(hourly)
    assert (await reads.rollup_status(hourly, "hourly")).successor == "building"
    assert await kit.difference(hourly, "select * from rollups.hourly", kit.recount()) == [], "the old one still serves"
    await hourly.execute("delete from sales where id < 20")
    assert await kit.difference(hourly, "select * from rollups.hourly", kit.recount()) == [], "and stays exact"
    await kit.settled(hourly, "hourly")
    await tend(hourly)
    await kit.exact(hourly, "hourly", kit.recount("1 day", "Europe/London"))
    assert (await reads.rollup_status(hourly, "hourly")).successor is None
    assert await hourly.fetch("select relname from pg_class where relnamespace = 'rollups'::regnamespace order by 1") == [
        ("hourly",),
        ("hourly_stored",),
        ("hourly_stored_key",),
    ]
    await hourly.execute("update sales set at = at + interval '5 days' where id < 40")
    await kit.exact(hourly, "hourly", kit.recount("1 day", "Europe/London"))


async def test_a_changed_spec_may_have_other_columns(hourly: asyncpg.Connection) -> None:
    await kit.declared(hourly, hourly=kit.rollup(measures={"first": "min(at)", "n": "count(*)"}, group_by=[]))
    await kit.settled(hourly, "hourly")
    await tend(hourly)
    expected = f"select {kit.key()} bucket, min(at) as first, count(*) n from sales group by 1"
    assert await kit.difference(hourly, "select * from rollups.hourly", expected) == []


async def test_a_change_taken_back_leaves_the_old_version_in_service(hourly: asyncpg.Connection) -> None:
    await kit.declared(hourly, hourly=kit.rollup(group_by=[]))
    await kit.declared(hourly, hourly=kit.rollup())
    assert (await reads.rollup_status(hourly, "hourly")).state == "current"
    assert await hourly.fetchval("select to_regclass('rollups.hourly_stored_next')") is None
    await kit.exact(hourly, "hourly", kit.recount())


async def test_a_view_of_somebody_else_on_top_keeps_the_old_version_and_says_so(hourly: asyncpg.Connection) -> None:
    await hourly.execute("create view public.report as select sum(total) from rollups.hourly")
    await kit.declared(hourly, hourly=kit.rollup(group_by=[], measures={"n": "count(*)"}))
    await kit.settled(hourly, "hourly")
    await tend(hourly)
    status = await reads.rollup_status(hourly, "hourly")
    assert "view report depends on" in str(status.successor)
    assert await kit.difference(hourly, "select * from rollups.hourly", kit.recount()) == []
    await hourly.execute("drop view report")
    await retend(hourly)
    assert (await reads.rollup_status(hourly, "hourly")).measures == {"n": "count(*)"}


async def test_a_rollup_no_longer_declared_loses_view_and_triggers_and_keeps_its_numbers(hourly: asyncpg.Connection) -> None:
    assert await triggers(hourly) == 4
    applied = await declare.apply(hourly, {})
    await tend(hourly)
    assert applied.removed == ("hourly",)
    assert await reads.list_rollups(hourly) == []
    assert await hourly.fetchval("select to_regclass('rollups.hourly')") is None
    assert await hourly.fetchval("select count(*) from rollups.hourly_stored") == 200
    assert await triggers(hourly) == 0
    assert await hourly.fetchval("select count(*) from ingestd.source") == 0


async def test_a_rollup_declared_again_catches_up_with_what_it_did_not_see(hourly: asyncpg.Connection) -> None:
    await kit.declared(hourly)
    await hourly.execute("update sales set amount = 5; delete from sales where id > 150")
    await kit.declared(hourly, hourly=kit.rollup())
    await kit.exact(hourly, "hourly", kit.recount())
    await kit.declared(hourly)
    await kit.declared(hourly, hourly=kit.rollup(bucket="1 day"))
    await kit.exact(hourly, "hourly", kit.recount("1 day"))


async def test_another_rollup_on_the_same_table_shares_its_triggers(hourly: asyncpg.Connection) -> None:
    await kit.declared(hourly, hourly=kit.rollup(), fine=kit.rollup(bucket="15 minutes"))
    assert await triggers(hourly) == 4
    await hourly.execute("update sales set at = at + interval '20 minutes' where id < 50")
    await kit.exact(hourly, "hourly", kit.recount())
    await kit.exact(hourly, "fine", kit.recount("15 minutes"))


@pytest.mark.parametrize("flag", ["off", "shadow", "frozen"])
async def test_flags_say_who_refreshes_and_what_is_shown(hourly: asyncpg.Connection, flag: str) -> None:
    before = await hourly.fetch("select * from rollups.hourly order by 1, 2")
    await kit.declared(hourly, hourly=kit.rollup(flag=flag))
    await hourly.execute("update sales set amount = amount * 2")
    done = await kit.refreshed(hourly, "hourly")
    assert bool(done.chunks) == (flag == "shadow")
    if flag == "off":
        assert await kit.difference(hourly, "select * from rollups.hourly", kit.recount()) == []
    elif flag == "shadow":
        assert await hourly.fetchval("select to_regclass('rollups.hourly')") is None
        assert await kit.difference(hourly, kit.stored("hourly"), kit.recount()) == []
    else:
        assert await hourly.fetch("select * from rollups.hourly order by 1, 2") == before
    await kit.declared(hourly, hourly=kit.rollup(flag="on"))
    await kit.exact(hourly, "hourly", kit.recount())


async def test_the_log_of_a_rollup_that_is_off_stays_small_and_complete(hourly: asyncpg.Connection) -> None:
    await kit.declared(hourly, hourly=kit.rollup(flag="off"))
    for number in range(20):
        await hourly.execute("update sales set amount = 1 where id = $1", number)
        await dirty.normalise(hourly)
    await dirty.compact(hourly, 5)
    assert await hourly.fetchval("select count(*) from ingestd.dirty") < 5
    await kit.declared(hourly, hourly=kit.rollup())
    await kit.exact(hourly, "hourly", kit.recount())


async def test_a_table_dropped_and_made_again_is_counted_anew(hourly: asyncpg.Connection) -> None:
    await hourly.execute("drop table sales cascade")
    await tend(hourly)
    assert (await reads.rollup_status(hourly, "hourly")).state == "waiting"
    await hourly.execute(kit.SALES)
    await hourly.execute("insert into sales (at, store, amount) values (now(), 1, 1)")
    await tend(hourly)
    await kit.exact(hourly, "hourly", kit.recount())


async def test_a_table_that_was_renamed_is_told_by_its_new_name_and_its_view_stays_exact(hourly: asyncpg.Connection) -> None:
    await hourly.execute("alter table sales rename to turnover")
    await tend(hourly)
    status = await reads.rollup_status(hourly, "hourly")
    told = "table public.sales is called public.turnover now: write so in [rollups.hourly] and reload, or rename it back"
    assert (status.state, status.reason) == ("waiting", told)
    await hourly.execute("delete from turnover where id < 20")
    assert await kit.difference(hourly, "select * from rollups.hourly", kit.recount().replace("sales", "turnover")) == []
    await hourly.execute("alter table turnover rename to sales")
    await tend(hourly)
    await kit.exact(hourly, "hourly", kit.recount())


@pytest.mark.parametrize("damage", ["drop view rollups.hourly", "drop table rollups.hourly_stored cascade"])
async def test_what_somebody_dropped_is_made_again(hourly: asyncpg.Connection, damage: str) -> None:
    await hourly.execute(damage)
    await tend(hourly)
    await kit.exact(hourly, "hourly", kit.recount())


@pytest.mark.parametrize("seen_between", [False, True])
async def test_a_column_dropped_and_made_again_is_counted_anew(hourly: asyncpg.Connection, seen_between: bool) -> None:
    await hourly.execute("alter table sales drop column amount cascade")
    if seen_between:
        await tend(hourly)
        assert (await reads.rollup_status(hourly, "hourly")).state == "waiting"
    # The default gives every row a value, and no trigger fires.
    await hourly.execute("alter table sales add column amount numeric(12,2) default 7")
    await retend(hourly)
    await kit.exact(hourly, "hourly", kit.recount())


@pytest.mark.parametrize("column", ["at", "store", "note"])
async def test_a_renamed_column_stops_no_writer_and_is_named_until_the_rollup_or_the_column_follows(
    hourly: asyncpg.Connection, column: str
) -> None:
    await kit.declared(hourly, hourly=kit.rollup(where="note is null"))
    await kit.settled(hourly, "hourly")
    await tend(hourly)
    await hourly.execute(f"alter table sales rename {column} to renamed")
    await tend(hourly)
    told = f'column "{column}" of public.sales is called "renamed" now: write so in [rollups.hourly] and reload, or rename it back'
    await hourly.execute("insert into sales overriding system value values (1000, '2026-01-02', 1, 5, null)")
    await retend(hourly)
    status = await reads.rollup_status(hourly, "hourly")
    assert (status.state, status.reason) == ("waiting", told)
    assert await dirty.due(hourly, timedelta()) == [], "a refresh could do nothing"
    await hourly.execute(f"alter table sales rename renamed to {column}")
    assert await kit.difference(hourly, "select * from rollups.hourly", kit.recount()) == [], "the view stayed exact"
    await retend(hourly)
    assert (await reads.rollup_status(hourly, "hourly")).reason is None
    await kit.exact(hourly, "hourly", kit.recount())


async def test_a_rollup_follows_a_renamed_column_by_its_configuration(hourly: asyncpg.Connection) -> None:
    await hourly.execute("alter table sales rename store to shop")
    await tend(hourly)
    await kit.declared(hourly, hourly=kit.rollup(group_by=["shop"]))
    await hourly.execute("insert into sales (at, shop, amount) values ('2026-01-02', 1, 5)")
    await kit.refreshed(hourly, "hourly")
    await tend(hourly)
    expected = kit.recount().replace(" store,", " shop,")
    assert await kit.difference(hourly, "select * from rollups.hourly", expected) == []
    assert (await reads.rollup_status(hourly, "hourly")).reason is None


async def test_triggers_that_somebody_dropped_or_disabled_are_back_and_the_gap_is_recounted(hourly: asyncpg.Connection) -> None:
    await hourly.execute("alter table sales disable trigger all; delete from sales where id < 50")
    await tend(hourly)
    await hourly.execute("delete from sales where id < 60")
    await kit.exact(hourly, "hourly", kit.recount())


async def test_a_name_that_is_taken_is_left_alone(conn: asyncpg.Connection) -> None:
    await conn.execute(kit.SALES)
    await conn.execute("create table rollups.hourly (precious int); create table rollups.other_stored (precious int)")
    await kit.declared(conn, hourly=kit.rollup(), other=kit.rollup())
    for name, taken in (("hourly", "rollups.hourly"), ("other", "rollups.other_stored")):
        assert (await reads.rollup_status(conn, name)).reason == f"{taken} exists and is not ours: rename or drop it, or rename the rollup"
    await conn.execute("select precious from rollups.hourly; select precious from rollups.other_stored")


async def test_setting_up_does_not_queue_behind_a_long_writer(conn: asyncpg.Connection, dsn: str) -> None:
    await conn.execute(kit.SALES)
    writer = await connect(dsn)
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute("insert into sales (at, store, amount) values (now(), 1, 1)")
    await kit.declared(conn, hourly=kit.rollup())
    assert (await reads.rollup_status(conn, "hourly")).reason == "waiting for open transactions on public.sales"
    await transaction.commit()
    await writer.close()
    await retend(conn)
    await kit.exact(conn, "hourly", kit.recount())


async def test_our_own_ddl_can_change_a_column_that_a_rollup_reads(hourly: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await hourly.execute("alter table sales alter amount type float8")
    async with hourly.transaction():
        taken = await detach(hourly, "public.sales")
        await hourly.execute("alter table sales alter amount type float8")
        await reattach(hourly, taken)
    assert await kit.difference(hourly, "select * from rollups.hourly", kit.recount()) == []
    await kit.settled(hourly, "hourly")
    assert await kit.difference(hourly, kit.stored("hourly"), kit.recount()) == []
    await hourly.execute("create view public.report as select * from rollups.hourly")
    with pytest.raises(Conflict, match="view report depends"):
        await detach(hourly, "sales")


async def test_buckets_below_the_floor_are_never_recomputed(hourly: asyncpg.Connection) -> None:
    old = "select * from rollups.hourly where bucket < '2026-01-05' order by 1, 2"
    before = await hourly.fetch(old)
    await hourly.execute("update ingestd.rollup set floor = '2026-01-05'; delete from sales where at < '2026-01-05'")
    assert await hourly.fetch(old) == before
    await hourly.execute("truncate sales")
    assert await hourly.fetch(old) == before
    await kit.settled(hourly, "hourly")
    assert await hourly.fetch("select * from rollups.hourly order by 1, 2") == before


async def test_series_reads_the_newest_buckets_of_one_measure(hourly: asyncpg.Connection) -> None:
    points = await reads.series(hourly, "hourly", "mean", {"store": "1"}, limit=6)
    assert [point.value for point in points] == [196.0, 199.0]
    assert points[0].group == {"store": 1}
    assert len(await reads.series(hourly, "hourly", "total", limit=50)) == 50
    await hourly.execute("delete from sales")
    assert await reads.series(hourly, "hourly", "total", limit=50) == []
