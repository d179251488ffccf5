"""History's partitions, made ahead of time and dropped when their time has passed."""

from __future__ import annotations

import asyncpg

from ingestd.postgres.outage import ConnectionLost

AHEAD = 14
MAKE = """
select ingestd.make_partitions('ingestd.history_ok', 'day', $1) + ingestd.make_partitions('ingestd.history_bad', 'month', $1)"""
OK, BAD = "ingestd.history_ok", "ingestd.history_bad"


class NoPartition(ConnectionLost):
    """History had no room for a job of today, so its transaction was rolled back; it is to be tried again when the partition is made."""


async def make_partitions(conn: asyncpg.Connection, ahead: int = AHEAD) -> int:
    """Make history partitions that are missing, `ahead` days and months from now; returns how many."""
    made: int = await conn.fetchval(MAKE, ahead)
    return made
