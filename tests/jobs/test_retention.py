"""What is past its time goes, what a dry run counted is what went, and nobody who works waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ingestd import Client
from ingestd.app import cleanup
from ingestd.app.handlers import handlers
from ingestd.errors import AlreadyRunning, InvalidInput
from ingestd.facts import Cleared, Keep
from ingestd.jobs.model import State
from ingestd.jobs.settings import RetentionSettings
from ingestd.jobs.store import retention
from ingestd.jobs.store.partitions import OK, make_partitions
from ingestd.postgres import partitions
from ingestd.postgres.session import connect
from tests.jobs.kit import end, new
from tests.support import eventually
from tests.work.conftest import start_worker

__all__ = ["start_worker"]

# Days of history as if the daemon had run for 75 days, and months of failures; some rows in each.
PAST = """
do $$ declare day date; begin
    for i in 2 .. 75 loop
        day := (now() at time zone 'UTC')::date - i;
        execute format('create table ingestd.history_ok_%s partition of ingestd.history_ok for values from (%L) to (%L)',
                       to_char(day, 'YYYYMMDD'), day || ' 00:00+00', (day + 1) || ' 00:00+00');
    end loop;
    for i in 2 .. 6 loop
        day := date_trunc('month', now() at time zone 'UTC')::date - make_interval(months => i);
        execute format('create table ingestd.history_bad_%s partition of ingestd.history_bad for values from (%L) to (%L)',
                       to_char(day, 'YYYYMM'), day || ' 00:00+00', (day + interval '1 month')::date || ' 00:00+00');
    end loop;
end $$"""
FILL = """
insert into ingestd.history (keep, state, finished_at, id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at, due_at,
                             created_at, key_strict, unique_until, args, attempts, tags, triggered_by)
select case when i % 5 = 0 then 'bad' else 'ok' end, case when i % 5 = 0 then 'failed' else 'succeeded' end,
       now() - make_interval(mins => i * 150), i, 'old', 1, 0, 1, 4, 0, now(), now(), now(), false, 'finish', '{}', '[]', '{}', 'api'
from generate_series(1, 700) i"""
REST = """
insert into ingestd.workflow_run (workflow, state, definition, triggered_by, finished_at)
select 'w', s, '{}', 'api', now() - make_interval(days => d) from unnest(array['succeeded', 'failed']) s, unnest(array[1, 40, 100]) d;
insert into ingestd.workflow_run (workflow, definition, triggered_by, created_at) values ('w', '{}', 'api', now() - interval '1 year');
insert into ingestd.workflow_step (run, step, position) select id, 'a', 0 from ingestd.workflow_run;
insert into ingestd.unique_hold (key, job_id, expires_at)
select 'k' || i, i, now() + make_interval(hours => i) from generate_series(-10, 4) i;
insert into ingestd.job_stat (minute, kind, queue_id, outcome, bucket, n, ms)
select now() - make_interval(days => d), 'old', 1, 'succeeded', 0, 1, 1 from generate_series(0, 120) d;
insert into ingestd.audit (at, actor, role, via, action, object_type, object_id)
select now() - make_interval(days => d * 10), 'a', 'admin', 'cli', 'x', 'job', '1' from generate_series(0, 40) d;
insert into ingestd.node (id, store, name, host, pid, version, state, duties, lock_key, ended_at)
select gen_random_uuid(), gen_random_uuid(), 'n', 'h', 1, '1', 'stopped', '{}', 1, now() - make_interval(days => d)
from generate_series(1, 20) d;
insert into ingestd.downtime (began_at, ended_at)
select now() - make_interval(days => d * 10, hours => 1), now() - make_interval(days => d * 10) from generate_series(0, 40) d;
insert into ingestd.idempotency (principal, key, fingerprint, created_at)
select 'p', d::text, '', now() - make_interval(hours => d) from generate_series(0, 40) d"""
# A month of slots that are all over, and one in which one is not.
SLOTS = """
do $$ declare month timestamptz; begin
    for i in 5 .. 6 loop
        month := date_trunc('month', now() at time zone 'UTC') at time zone 'UTC' - make_interval(months => i);
        execute format('create table ingestd.slot_%s partition of ingestd.slot for values from (%L) to (%L)',
                       to_char(month, 'YYYYMM'), month, month + interval '1 month');
        insert into ingestd.slot (schedule, due_at, state)
        values (case i when 5 then 'beside' else 'alone' end, month + interval '1 day', 'skipped');
    end loop;
    insert into ingestd.slot (schedule, due_at, state)
    select schedule, due_at + interval '1 day', 'waiting' from ingestd.slot where schedule = 'beside';
end $$"""
ROWS = {
    "finished jobs": "select count(*) from ingestd.history_ok",
    "failed jobs": "select count(*) from ingestd.history_bad",
    "workflow runs": "select count(*) from ingestd.workflow_run",
    "expired unique keys": "select count(*) from ingestd.unique_hold",
    "statistics": "select count(*) from ingestd.job_stat",
    "audit log": "select count(*) from ingestd.audit",
    "ended nodes": "select count(*) from ingestd.node",
    "schedule slots": "select count(*) from ingestd.slot",
    "downtimes": "select count(*) from ingestd.downtime",
    "revoked and expired tokens": "select count(*) from ingestd.token",
    "answers kept for repeated requests": "select count(*) from ingestd.idempotency",
}


@pytest.fixture
async def old(conn: asyncpg.Connection) -> asyncpg.Connection:
    """A database with much to forget."""
    await conn.execute(PAST)
    await conn.execute(FILL)
    await conn.execute(REST)
    return conn


async def count(conn: asyncpg.Connection) -> dict[str, int]:
    return {what: await conn.fetchval(sql) for what, sql in ROWS.items()}


def told(cleared: list[Cleared]) -> dict[str, int]:
    return {one.what: one.rows for one in cleared}


def bounds(days: int) -> Keep:
    before = datetime.now(UTC) - timedelta(days=days)
    return Keep(before, before, before, before, datetime.now(UTC))


@pytest.mark.parametrize("days", [None, 1, 20, 33, 90, 3650])
async def test_the_dry_run_says_to_the_row_what_the_real_one_does(old: asyncpg.Connection, days: int | None) -> None:
    before = await count(old)
    would = await cleanup.clean(old, RetentionSettings(), days=days, dry_run=True)
    assert await count(old) == before
    did = await cleanup.clean(old, RetentionSettings(), days=days)
    after = await count(old)
    assert did == would
    assert told(did) == {what: before[what] - after[what] for what in ROWS}


async def test_by_the_settings_a_partition_stays_until_all_of_it_is_past(old: asyncpg.Connection) -> None:
    did = await cleanup.clean(old, RetentionSettings())
    oldest = await old.fetchrow("select min(finished_at) as ok, now() - interval '30 days' as edge from ingestd.history_ok")
    assert oldest["edge"] - timedelta(days=1) < oldest["ok"]
    assert oldest["ok"].date() == oldest["edge"].date()
    names = {name for one in did for name in one.partitions}
    assert f"history_ok_{oldest['edge'] - timedelta(days=1):%Y%m%d}" in names
    assert f"history_ok_{oldest['edge']:%Y%m%d}" not in names
    assert did[0].bytes > 0


async def test_by_hand_nothing_older_is_left(old: asyncpg.Connection) -> None:
    await cleanup.clean(old, RetentionSettings(), days=20)
    assert await old.fetchval("select min(finished_at) > now() - interval '20 days 1 minute' from ingestd.history")
    assert await old.fetchval("select min(at) < now() - interval '300 days' from ingestd.audit")
    assert await old.fetchval("select count(*) from ingestd.workflow_run where state = 'running'") == 1


async def test_a_job_that_is_acked_during_a_cleanup_never_waits(old: asyncpg.Connection, dsn: str) -> None:
    """One transaction has acked and stays open, so that the detachment waits for it; others ack all the while."""
    holder, acker = await connect(dsn), await connect(dsn)
    try:
        number = await new(old)
        await holder.execute("begin")
        await end(holder, number)
        cleaning = asyncio.create_task(cleanup.clean(old, RetentionSettings(), days=74))
        waiting = "select exists (select from pg_stat_activity where query like 'alter table%detach%' and wait_event_type = 'Lock')"
        await eventually(lambda: acker.fetchval(waiting))
        await acker.execute("set lock_timeout = '1s'")
        for _ in range(20):
            await end(acker, await new(acker))
        assert await acker.fetchval(waiting)
        await holder.execute("rollback")
        did = await cleaning
        assert did[0].postponed == ()
        assert did[0].partitions
    finally:
        await holder.close()
        await acker.close()


async def test_what_somebody_reads_for_long_is_left_for_the_next_time(
    old: asyncpg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "WAIT", "set lock_timeout = 100")
    reader = await connect(dsn)
    try:
        await reader.execute("begin isolation level repeatable read; select count(*) from ingestd.history")
        did = await cleanup.clean(old, RetentionSettings())
        assert did[0].postponed
        assert did[0].rows == 0
        await reader.execute("rollback")
        again = await cleanup.clean(old, RetentionSettings(), dry_run=True)
        assert set(did[0].postponed) == set(again[0].partitions)
        assert await cleanup.clean(old, RetentionSettings()) == again
        assert told(await cleanup.clean(old, RetentionSettings()))["finished jobs"] == 0
    finally:
        await reader.close()


async def test_a_partition_that_a_crash_left_detached_is_dropped_next_time(old: asyncpg.Connection) -> None:
    before = datetime.now(UTC) - timedelta(days=30)
    past = [one for one in await partitions.partitions(old, OK) if partitions.is_past(one, before, datetime.now(UTC))]
    await old.execute(partitions.SET_MARK.format(name=past[0].name))
    await old.execute(f"alter table {OK} detach partition {past[0].name}")
    would = await retention.clear(old, bounds(30), True)
    assert past[0].name.rpartition(".")[2] in would[0].partitions
    assert (await retention.clear(old, bounds(30), False))[0].rows == would[0].rows
    assert await old.fetchval("select to_regclass($1) is null", past[0].name)


async def test_a_table_that_only_looks_like_a_partition_is_left_alone(old: asyncpg.Connection) -> None:
    await old.execute("create table ingestd.history_ok_20010101 (x int); create table public.history_bad_200101 (x int)")
    await cleanup.clean(old, RetentionSettings(), days=1)
    assert await old.fetchval("select to_regclass('ingestd.history_ok_20010101') is not null")
    assert await old.fetchval("select to_regclass('public.history_bad_200101') is not null")


async def test_two_cleanups_never_run_at_once(old: asyncpg.Connection, dsn: str) -> None:
    async with cleanup.locks.alone(old, cleanup.LOCK):
        other = await connect(dsn)
        try:
            with pytest.raises(AlreadyRunning, match="another cleanup"):
                await cleanup.clean(other, RetentionSettings())
            assert await cleanup.clean(other, RetentionSettings(), dry_run=True)
        finally:
            await other.close()
    assert await cleanup.clean(old, RetentionSettings())


async def test_failures_are_kept_longer(conn: asyncpg.Connection) -> None:
    await end(conn, await new(conn), State.FAILED, reason="x")
    await end(conn, await new(conn))
    keep = bounds(-1)
    keep = replace(keep, failed=datetime.now(UTC) - timedelta(days=1), exactly=True)
    assert told(await retention.clear(conn, keep, False))["finished jobs"] == 1
    assert await conn.fetchval("select array_agg(state) from ingestd.history") == ["failed"]


async def test_a_detachment_that_was_killed_halfway_is_finished_next_time(old: asyncpg.Connection, dsn: str) -> None:
    holder, cleaner = await connect(dsn), await connect(dsn)
    try:
        number = await new(old)
        await holder.execute("begin")
        await end(holder, number)
        cleaning = asyncio.create_task(cleanup.clean(cleaner, RetentionSettings()))
        kill = """select pg_terminate_backend(pid) from pg_stat_activity
                  where datname = current_database() and query like 'alter table%detach%' and wait_event_type = 'Lock'"""
        await eventually(lambda: old.fetchval(kill))
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await cleaning
        await holder.execute("rollback")
        assert await old.fetchval("select count(*) from pg_inherits where inhdetachpending") == 1
        would = await cleanup.clean(old, RetentionSettings(), dry_run=True)
        assert await cleanup.clean(old, RetentionSettings()) == would
        assert await old.fetchval("select count(*) from pg_inherits where inhdetachpending") == 0
    finally:
        await holder.close()


async def test_what_would_be_made_again_at_once_is_emptied_instead_of_dropped(old: asyncpg.Connection) -> None:
    assert await make_partitions(old) == 0
    did = await cleanup.clean(old, RetentionSettings(), days=1)
    assert told(did)["failed jobs"] > 0
    assert await make_partitions(old) == 0
    assert await old.fetchval("select count(*) from ingestd.history where finished_at < now() - interval '25 hours'") == 0


async def test_the_cleanup_job_tells_what_it_did(old: asyncpg.Connection, start_worker: Callable[..., Any]) -> None:
    async def healthy() -> dict[str, Any]:
        return {}

    async def tidied(_conn: asyncpg.Connection) -> dict[str, int]:
        return {"tidied": 1}

    would = await cleanup.clean(old, RetentionSettings(), days=33, dry_run=True)
    specs = {spec.kind: spec for spec in handlers(RetentionSettings, dict, healthy, [tidied])}
    async with start_worker(specs["cleanup"]):
        await new(old, "cleanup", args={"days": 33}, queue="maintenance")
        result = await eventually(lambda: old.fetchval("select result from ingestd.history where kind = 'cleanup'"))
    assert result["rows"] == sum(one.rows for one in would)
    assert (result["tidied"], result["postponed"]) == (1, [])
    assert {one["what"]: one["rows"] for one in result["cleared"]} == told(would)


@pytest.mark.parametrize("days", [-5, 0, 36501, 10**12, 1.5])
async def test_a_cleanup_that_would_keep_no_day_is_refused_and_forgets_nothing(
    old: asyncpg.Connection, dsn: str, days: float, start_worker: Callable[..., Any]
) -> None:
    async def healthy() -> dict[str, Any]:
        return {}

    rows = await old.fetchval("select count(*) from ingestd.history")
    specs = {spec.kind: spec for spec in handlers(RetentionSettings, dict, healthy, [])}
    async with start_worker(specs["cleanup"]), Client(dsn) as client:
        with pytest.raises(InvalidInput, match="the arguments do not fit cleanup"):
            await client.enqueue("cleanup", {"days": days})
    if days != 1.5:
        with pytest.raises(InvalidInput, match="keeps 1 to 36500 days"):
            await cleanup.clean(old, RetentionSettings(), days=int(days))
    assert await old.fetchval("select count(*) from ingestd.history") == rows


@pytest.mark.parametrize(
    ("days", "left"), [(None, {"skipped beside", "waiting beside"}), (1, {"waiting beside"}), (100, {"waiting beside"})]
)
async def test_a_slot_that_has_yet_to_fire_stays_and_its_partition_with_it(
    conn: asyncpg.Connection, days: int | None, left: set[str]
) -> None:
    """It waits for the job before it, which may take longer than anything is kept."""
    await conn.execute(SLOTS)
    would = await cleanup.clean(conn, RetentionSettings(), days=days, dry_run=True)
    assert await cleanup.clean(conn, RetentionSettings(), days=days) == would
    assert {row[0] for row in await conn.fetch("select state || ' ' || schedule from ingestd.slot")} == left
