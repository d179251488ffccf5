"""What keeps the tables in shape: done by every node each minute, and by `command = "maintenance"` more thoroughly."""

from __future__ import annotations

from datetime import timedelta

import asyncpg

from ingestd.jobs.store.jobs import forget_holds
from ingestd.jobs.store.partitions import make_partitions
from ingestd.jobs.store.statistics import RECENT, compact
from ingestd.schedule.store.firing import make_partitions as make_slot_partitions

# Minutes that nobody folded in their time, because no node lived then.
FORGOTTEN = timedelta(days=7)


async def upkeep(conn: asyncpg.Connection, window: timedelta = RECENT) -> dict[str, int]:
    """Partitions ahead of time, statistics folded, unique keys let go of; any number of nodes may be at it.

    Args:
        window: how far back statistics are folded.

    Returns:
        How many partitions were made.
    """
    made = {"partitions_made": await make_partitions(conn), "slot_partitions_made": await make_slot_partitions(conn)}
    await compact(conn, window)
    await forget_holds(conn)
    return made
