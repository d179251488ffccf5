"""What the audit log forgets in time."""

from __future__ import annotations

import asyncpg

from ingestd.access import store
from ingestd.facts import Cleared, Keep, RoomFacts


async def clear(conn: asyncpg.Connection, keep: Keep, dry_run: bool) -> list[Cleared]:
    """Forget who did what long ago."""
    return [await store.forget_audit(conn, keep.audit, dry_run)]


def facts() -> RoomFacts:
    """When audit rows are forgotten."""
    return RoomFacts(clear=clear)
