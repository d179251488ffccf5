"""Applies `migrations/*.sql` in order: forward only, checksummed, one transaction each, under an advisory lock."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path

import asyncpg

from ingestd.errors import ConfigurationError, InvalidInput

LOCK = "select pg_advisory_xact_lock(hashtextextended('ingestd:migrate', 0))"
LEDGER = """
create schema if not exists ingestd;
create table if not exists ingestd.migration (
    version integer primary key, name text not null, checksum text not null, applied_at timestamptz not null default now()
)"""
LEDGER_EXISTS = "select to_regclass('ingestd.migration') is not null"
APPLIED = "select version, name, checksum, applied_at from ingestd.migration order by version"
RECORD = "insert into ingestd.migration (version, name, checksum) values ($1, $2, $3)"
SERVER_VERSION = "select current_setting('server_version_num')::int"
LATELY = "select max(applied_at) > clock_timestamp() - $1::interval from ingestd.migration"
MOMENT = timedelta(seconds=5)
WAITS = 20
MINIMUM_SERVER = 160000
_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `migrations/`."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """A migration and when it was applied, if it was."""

    migration: Migration
    applied_at: datetime | None


def available() -> list[Migration]:
    """The migrations that ship with this version, in order."""
    found = []
    for entry in _folder().iterdir():
        match = _FILE.fullmatch(entry.name)
        if match:
            found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.version)


def _folder() -> Path:
    packaged = Path(str(resources.files("ingestd"))) / "migrations"
    # An editable install runs from the checkout, where migrations stand at the top level.
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "migrations"


async def migrate(conn: asyncpg.Connection) -> list[Migration]:
    """Apply what is missing; any number of processes may call this at once.

    Returns:
        The migrations that were applied now, in order.

    Raises:
        ConfigurationError: the server is too old, an applied file has changed, or the database is newer than this version.
    """
    await _check_server(conn)
    applied: list[Migration] = []
    while (migration := await _apply_next(conn)) is not None:
        applied.append(migration)
    return applied


async def set_up(conn: asyncpg.Connection) -> None:
    """Make an empty database ready for a command; one that an older version has set up is left to whoever upgrades it.

    Raises:
        ConfigurationError: it lacks migrations that this version needs; or as for `migrate`.
    """
    for _ in range(WAITS):
        found = await status(conn)
        pending = [item.migration for item in found if item.applied_at is None]
        if not pending:
            return
        if len(pending) == len(found):
            await migrate(conn)
            return
        # Perhaps a daemon is at it just now: each migration is a transaction of its own.
        if not await conn.fetchval(LATELY, MOMENT):
            break
        await asyncio.sleep(MOMENT.total_seconds() / WAITS)
    lacking = f"{pending[0].version:04d}_{pending[0].name}"
    remedy = "upgrade it by `ingestd migrate`, or with the daemons, by `ingestd run`"
    raise ConfigurationError([f"the database was set up by an older version, and lacks migration {lacking} of this one: {remedy}"])


async def _apply_next(conn: asyncpg.Connection) -> Migration | None:
    """Look and apply under one lock, which falls with the transaction: through a pooler no lock may outlive that."""
    async with conn.transaction():
        await conn.execute(LOCK)
        await conn.execute(LEDGER)
        pending = [item.migration for item in await _status(conn) if item.applied_at is None]
        if not pending:
            return None
        await conn.execute(pending[0].sql)
        await conn.execute(RECORD, pending[0].version, pending[0].name, pending[0].checksum)
        return pending[0]


async def status(conn: asyncpg.Connection) -> list[MigrationStatus]:
    """Which migrations are applied, without changing anything."""
    await _check_server(conn)
    if not await conn.fetchval(LEDGER_EXISTS):
        return [MigrationStatus(migration, None) for migration in available()]
    return await _status(conn)


async def _check_server(conn: asyncpg.Connection) -> None:
    version = await conn.fetchval(SERVER_VERSION)
    if version < MINIMUM_SERVER:
        raise ConfigurationError([f"[database] url: PostgreSQL {version // 10000} is too old, ingestd needs 16 or newer"])


async def _status(conn: asyncpg.Connection) -> list[MigrationStatus]:
    shipped = available()
    applied = {row["version"]: row for row in await conn.fetch(APPLIED)}
    unknown = sorted(applied.keys() - {migration.version for migration in shipped})
    if unknown:
        raise ConfigurationError(
            [f"the database has migration {unknown[-1]:04d}, which this version of ingestd does not know: it is newer; upgrade"]
        )
    for migration in shipped:
        row = applied.get(migration.version)
        if row and row["checksum"] != migration.checksum:
            raise ConfigurationError(
                [f"migration {migration.version:04d}_{migration.name} was changed after it was applied to this database"]
            )
    return [
        MigrationStatus(migration, applied[migration.version]["applied_at"] if migration.version in applied else None)
        for migration in shipped
    ]


GRANT = """
grant usage on schema ingestd, rollups to {role};
grant execute on function ingestd.enqueue(text, jsonb, jsonb), ingestd.enqueue_many(jsonb), ingestd.enqueue_each(jsonb),
    ingestd.outcomes(bigint[]) to {role};
grant select (name, queue, priority, max_attempts, aliases, arguments, published_at) on ingestd.kind to {role};
grant select (name) on ingestd.queue to {role}"""


async def grant(conn: asyncpg.Connection, role: str) -> None:
    """Let `role` enqueue, look up which kinds and queues there are, and hear what came of what was enqueued from SQL.

    Raises:
        InvalidInput: there is no such role.
    """
    quoted = await conn.fetchval("select quote_ident(rolname) from pg_roles where rolname = $1", role)
    if quoted is None:
        raise InvalidInput(f'there is no role "{role}" in this database', pointer="--grant")
    await conn.execute(GRANT.format(role=quoted))
