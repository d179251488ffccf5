"""Migrations: applied once, in order, by whoever comes first."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from ingestd.errors import ConfigurationError, InvalidInput
from ingestd.postgres import migrate as migrations
from ingestd.postgres.pool import connect


async def test_migrating_again_changes_nothing(conn: asyncpg.Connection) -> None:
    assert await migrations.migrate(conn) == []
    assert all(item.applied_at for item in await migrations.status(conn))


async def test_two_processes_migrating_at_once_apply_each_migration_once(server_dsn: str) -> None:
    from tests.conftest import with_database

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
    try:
        await migrations.grant(conn, "ingestd_test_caller")
        await conn.execute("set role ingestd_test_caller")
        assert await conn.fetchval("select ingestd.enqueue('any_kind')") > 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetch("select * from ingestd.job")
    finally:
        await conn.execute("reset role")
        await conn.execute("drop owned by ingestd_test_caller; drop role ingestd_test_caller")


async def test_a_grant_to_an_unknown_role_is_refused(conn: asyncpg.Connection) -> None:
    with pytest.raises(InvalidInput, match="nobody_at_all"):
        await migrations.grant(conn, "nobody_at_all")
