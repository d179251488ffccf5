"""Databases to throw away, for tests and measurements."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from ingestd.postgres.outage import OUTAGE
from ingestd.postgres.session import connect

CREATE = 'create database "{name}"'
COPY = 'create database "{name}" template "{template}"'
# Files copied between two checkpoints: half the work of logging each page, where no checkpoint has to wait for a disk.
FORGETS = "select current_setting('fsync') = 'off'"
FILES = " strategy file_copy"
DROP = 'drop database if exists "{name}" with (force)'
MARK = "comment on database \"{name}\" is 'ingestd: to be thrown away'"
# Only ours, and only where nobody is at work in it.
LEFT = r"""
select datname from pg_database d
where starts_with(datname, $1) and shobj_description(d.oid, 'pg_database') = 'ingestd: to be thrown away'
  and not exists (select from pg_stat_activity a where a.datid = d.oid)"""
MAY_CREATE = "select rolcreatedb or rolsuper from pg_roles where rolname = current_user"


@asynccontextmanager
async def scratch(server_url: str, prefix: str, template: str | None = None) -> AsyncIterator[str]:
    """A database with a name of its own, for as long as the block lasts.

    Args:
        server_url: of any database of the server.
        prefix: of its name.
        template: a database to copy; None: an empty one.

    Yields:
        Its name.
    """
    name = f"{prefix}_{uuid.uuid4().hex[:12]}"
    admin = await connect(server_url)
    try:
        create = CREATE if template is None else COPY
        way = FILES if template is not None and await admin.fetchval(FORGETS) else ""
        await admin.execute(create.format(name=name, template=template) + way)
        await admin.execute(MARK.format(name=name))
        yield name
    finally:
        with suppress(*OUTAGE):
            await admin.execute(DROP.format(name=name))
        await admin.close(timeout=5)


async def may_create(conn: asyncpg.Connection) -> bool:
    """Whether this role may make databases."""
    return bool(await conn.fetchval(MAY_CREATE))


async def drop_left(conn: asyncpg.Connection, prefix: str) -> None:
    """Drop what somebody who was killed has left."""
    for row in await conn.fetch(LEFT, prefix):
        await conn.execute(DROP.format(name=row["datname"]))


def with_database(url: str, name: str) -> str:
    """The same URL with another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
