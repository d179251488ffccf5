"""When slots are forgotten."""

from __future__ import annotations

import asyncpg

from ingestd.facts import Cleared, Keep
from ingestd.postgres.retention import Series, clear_series

SLOTS = Series("schedule slots", "ingestd.slot", "due_at")


async def clear(conn: asyncpg.Connection, keep: Keep, dry_run: bool) -> list[Cleared]:
    """Forget slots as late as failed jobs, for a missed one is worth as much; with `dry_run` only count them."""
    return [await clear_series(conn, SLOTS, keep.failed, keep, dry_run)]
