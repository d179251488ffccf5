"""What the audit log and the list of tokens forget in time."""

from __future__ import annotations

import asyncpg

from ingestd.access import store
from ingestd.facts import Cleared, Keep, RoomFacts


async def clear(conn: asyncpg.Connection, keep: Keep, dry_run: bool) -> list[Cleared]:
    """Forget who did what long ago, and tokens that ended before that."""
    return [await store.forget_audit(conn, keep.audit, dry_run), await store.forget_tokens(conn, keep.audit, dry_run)]


def facts() -> RoomFacts:
    """When audit rows and ended tokens are forgotten."""
    return RoomFacts(clear=clear)
