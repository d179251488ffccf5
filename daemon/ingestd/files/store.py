"""The SQL of received files."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from ingestd.files.identity import Received

REMEMBER = """
insert into ingestd.file (sha256, size, store, path) values ($1, $2, $3, $4)
on conflict (sha256, size, store) do update set path = excluded.path, gone_at = null
returning id"""


async def remember(conn: asyncpg.Connection, received: Received, store: UUID) -> int:
    """The id of the file row of these bytes, made if they are new.

    Args:
        store: where the bytes lie.
    """
    file_id: int = await conn.fetchval(REMEMBER, received.sha256, received.size, store, received.path)
    return file_id
