"""Migrations: applied once, in order, by whoever comes first."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from ingestd.errors import ConfigurationError, InvalidInput
from ingestd.postgres import migrate as migrations
from ingestd.postgres.session import connect


async def test_migrating_again_changes_nothing(conn: asyncpg.Connection) -> None:
    assert await migrations.migrate(conn) == []
    assert all(item.applied_at for item in await migrations.status(conn))


async def test_two_processes_migrating_at_once_apply_each_migration_once(server_dsn: str) -> None:
    from ingestd.postgres.scratch import with_database

    admin = await connect(server_dsn)
    await admin.execute("create database race_to_migrate")
    try:
        one, two = [await connect(with_database(server_dsn, "race_to_migrate")) for _ in range(2)]
        applied = await asyncio.gather(migrations.migrate(one), migrations.migrate(two))
        assert sorted(done.version for both in applied for done in both) == [each.version for each in migrations.available()]
        await one.close()
        await two.close()
    finally:
        await admin.execute("drop database race_to_migrate with (force)")
        await admin.close()


async def test_a_migration_changed_after_it_was_applied_is_refused(conn: asyncpg.Connection) -> None:
    await conn.execute("update ingestd.migration set checksum = 'other' where version = 1")
    with pytest.raises(ConfigurationError, match="0001_queue was changed"):
        await migrations.migrate(conn)


async def test_a_database_of_a_newer_version_is_refused(conn: asyncpg.Connection) -> None:
    await conn.execute("insert into ingestd.migration values (9999, 'future', 'x')")
    with pytest.raises(ConfigurationError, match="9999"):
        await migrations.migrate(conn)


async def test_a_granted_role_can_enqueue_and_nothing_else(conn: asyncpg.Connection) -> None:
    await conn.execute("drop role if exists ingestd_test_caller")
    await conn.execute("create role ingestd_test_caller")
    names = await conn.fetch("select oid::regprocedure::text as name from pg_proc where pronamespace = 'ingestd'::regnamespace")
    tables = await conn.fetch(
        "select oid::regclass::text as name from pg_class where relnamespace = 'ingestd'::regnamespace and relkind in ('r', 'p', 'S', 'v')"
    )
    try:
        await migrations.grant(conn, "ingestd_test_caller")
        may = {
            row["name"]
            for row in names
            if await conn.fetchval("select has_function_privilege('ingestd_test_caller', $1, 'execute')", row["name"])
        }
        # the two that compute a bucket's bounds touch nothing, and views of rollups need them
        harmless = {name for name in may if name.startswith("ingestd.bucket_")}
        assert may - harmless == {
            "ingestd.enqueue(text,jsonb,jsonb)",
            "ingestd.enqueue_many(jsonb)",
            "ingestd.enqueue_each(jsonb)",
            "ingestd.outcomes(bigint[])",
        }
        for row in tables:
            kind = "sequence" if row["name"].endswith("_seq") else "table"
            for privilege in ("select", "update") if kind == "sequence" else ("select", "insert", "update", "delete", "truncate"):
                ask = f"select has_{kind}_privilege('ingestd_test_caller', $1, '{privilege}')"
                assert not await conn.fetchval(ask, row["name"]), (row["name"], privilege)
        assert not await conn.fetchval("select has_schema_privilege('ingestd_test_caller', 'ingestd', 'create')")
        await conn.execute("set role ingestd_test_caller")
        assert (
            await conn.fetchval('select ingestd.enqueue(\'any_kind\', \'{}\', \'{"unique_key": "k", "unique_for": "1h", "delay": "1h"}\')')
            > 0
        )
        assert len(await conn.fetch('select * from ingestd.enqueue_each(\'[{"kind": "a"}, {"kind": "b", "unique_key": "k"}]\')')) == 2
        for forbidden in (
            "select * from ingestd.job",
            'select * from ingestd.enqueue_rows(\'[{"kind": "a", "workflow_run": 1}]\')',
            "select ingestd.make_partitions('ingestd.history_ok', 'day', 1)",
            "insert into ingestd.job (kind, queue_id) values ('a', 1)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.fetch(forbidden)
        with pytest.raises(asyncpg.InvalidParameterValueError, match='unknown enqueue option "workflow_run"'):
            await conn.fetch('select * from ingestd.enqueue_each(\'[{"kind": "a", "workflow_run": 1}]\')')
    finally:
        await conn.execute("reset role")
        await conn.execute("drop owned by ingestd_test_caller; drop role ingestd_test_caller")


async def test_a_grant_to_an_unknown_role_is_refused(conn: asyncpg.Connection) -> None:
    with pytest.raises(InvalidInput, match="nobody_at_all"):
        await migrations.grant(conn, "nobody_at_all")
