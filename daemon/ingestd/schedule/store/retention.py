"""When slots are forgotten."""

from __future__ import annotations

import asyncpg

from ingestd.facts import Cleared, Keep
from ingestd.postgres.retention import Series, clear_rows, clear_series

# A slot that waits for the job before it has yet to fire.
SLOTS = Series("schedule slots", "ingestd.slot", "due_at", stays="state = 'waiting'")


async def clear(conn: asyncpg.Connection, keep: Keep, dry_run: bool) -> list[Cleared]:
    """Forget slots and downtimes as late as failed jobs, for a missed one is worth as much; with `dry_run` only count them."""
    return [
        await clear_series(conn, SLOTS, keep.failed, keep, dry_run),
        await clear_rows(conn, "downtimes", "ingestd.downtime", "ended_at < $1", keep.failed, dry_run=dry_run),
    ]
