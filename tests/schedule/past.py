"""What has happened, as loads and history keep it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg


async def load(conn: asyncpg.Connection, name: str, finished_at: datetime, status: str = "succeeded") -> None:
    """A load of an import as it is kept once it has ended."""
    (file,) = await conn.fetchrow(
        """insert into ingestd.file (sha256, size, store, path)
           values (sha256(gen_random_uuid()::text::bytea), 1, gen_random_uuid(), 'x') returning id"""
    )
    (arrival,) = await conn.fetchrow(
        """insert into ingestd.arrival (import, store, path, name, size, mtime_ns, file_id)
           values ($1, gen_random_uuid(), '/x', 'x', 1, 1, $2) returning id""",
        name,
        file,
    )
    counts = (0, 0, 0, 0, 0, 0) if status in ("succeeded", "partial") else (None,) * 6
    await conn.execute(
        """insert into ingestd.load (import, target, mode, arrival_id, file_id, file_name, status, read, inserted, updated, unchanged,
                                     rejected, superseded, bytes, triggered_by, finished_at)
           values ($1, 't', 'append', $2, $3, 'x', $4, $5, $6, $7, $8, $9, $10, 1, 'folder', $11)""",
        name, arrival, file, status, *counts, finished_at,
    )  # fmt: skip


async def finished(
    conn: asyncpg.Connection, kind: str, at: datetime, state: str = "succeeded", partial: bool = False, args: dict[str, Any] | None = None
) -> None:
    """A job as history keeps it."""
    await conn.execute(
        """insert into ingestd.history (keep, finished_at, state, partial, id, kind, queue_id, rank, attempt, max_attempts, crashes, run_at,
                                        due_at, created_at, key_strict, unique_until, args, attempts, triggered_by, tags)
           values (case $1 when 'failed' then 'bad' else 'ok' end, $2, $1, $3, nextval(pg_get_serial_sequence('ingestd.job', 'id')), $4, 1,
                   0, 1, 4, 0, now(), now(), now(), false, 'finish', $5, '[]', 'api', '{}')""",
        state, at, partial, kind, args or {},
    )  # fmt: skip
