"""Telling other processes on which queues this node waits, so that an enqueue wakes somebody only where somebody sleeps.

The order is what counts: a node writes that it waits, and then looks once more. An enqueue that saw no flag was under way before the
flag was there; it is found by that look, or by the two that follow soon, or, if its transaction lasts longer, by the sweep each second.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from uuid import UUID

import asyncpg

from ingestd.jobs.store import nodes as store
from ingestd.work.lane import Lane

# A queue that was busy for so long is no longer told to be waiting; shorter, and each small batch would cost two writes.
BUSY_S = 1.0
LOOK_AGAIN_S = (0.03, 0.25)
# A crash of Postgres empties the table, and whoever took this node for dead has deleted its row: say it again now and then.
RETELL_S = 30.0


class IdleFlags:
    """The queues on which this node has said that it waits.

    Args:
        node: whose flags they are.
    """

    def __init__(self, node: UUID) -> None:
        self._node = node
        self._flagged: set[int] = set()
        self._waited_at: dict[int, float] = {}
        self._told_at = 0.0

    def forget(self) -> None:
        """The database may have lost the flags: say it again."""
        self._flagged = set()

    async def tell(self, conn: asyncpg.Connection, lanes: Iterable[Lane]) -> bool:
        """Write what has changed.

        Returns:
            Whether a queue has been flagged, so that it is to be looked at once more.
        """
        now = time.monotonic()
        waiting = set()
        for lane in lanes:
            if lane.waits:
                waiting.add(lane.id)
                self._waited_at[lane.id] = now
            elif lane.id not in self._flagged:
                # Nobody will tell of what is enqueued here now: the slots must look for themselves.
                lane.empty = False
        busy = {queue for queue in self._flagged - waiting if now - self._waited_at.get(queue, 0.0) > BUSY_S}
        new = waiting - self._flagged
        if not new and not busy and (not self._flagged or now - self._told_at < RETELL_S):
            return False
        flagged = (self._flagged | waiting) - busy
        await store.tell_idle(conn, self._node, flagged)
        self._flagged, self._told_at = flagged, now
        for lane in lanes:
            if lane.id in busy:
                lane.empty = False
        return bool(new)
