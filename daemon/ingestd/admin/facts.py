"""What the server forgets in time."""

from __future__ import annotations

import asyncpg

from ingestd.admin import store
from ingestd.facts import Cleared, Keep, RoomFacts


async def clear(conn: asyncpg.Connection, keep: Keep, dry_run: bool) -> list[Cleared]:
    """Forget the answers that were kept for repeated requests."""
    return [await store.forget_answers(conn, keep.now, dry_run)]


def facts() -> RoomFacts:
    """When kept answers are forgotten."""
    return RoomFacts(clear=clear)
