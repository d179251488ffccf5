"""Takes due jobs for the free slots of each queue and starts them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from ingestd.events import Bus
from ingestd.jobs.model import Job
from ingestd.jobs.store import claim as store
from ingestd.jobs.store import queues as queue_store
from ingestd.postgres.pool import Database
from ingestd.service import Poller
from ingestd.work.node import NodeIdentity

POLL_S = 1.0
SHORTEST_S = 0.01


@dataclass(slots=True)
class Lane:
    """A queue as this node serves it.

    Args:
        slots: jobs at the same time.
        running: jobs started and not acked yet.
        paused: nothing is claimed from it.
    """

    id: int
    name: str
    slots: int
    running: int = 0
    paused: bool = False

    @property
    def free(self) -> int:
        """Jobs that could be started now."""
        return 0 if self.paused else max(self.slots - self.running, 0)


class Claimer:
    """Keeps this node's free slots filled.

    Args:
        db: its pools.
        node: who claims.
        bus: where loop failures are told.
        kinds: what this process can run, asked at each claim.
        start: starts one claimed job.
        slots: queue name -> slots; queues that are not named are not served.
    """

    def __init__(
        self,
        db: Database,
        node: NodeIdentity,
        bus: Bus,
        kinds: Callable[[], list[str]],
        start: Callable[[Job, Lane], None],
        slots: Mapping[str, int],
    ) -> None:
        self.poller = Poller("claimer", self._poll, bus)
        self.lanes: dict[int, Lane] = {}
        self._draining = False
        self._db = db
        self._node = node
        self._kinds = kinds
        self._start = start
        self._slots = dict(slots)
        # Claims whose answer never came: what they took is given back before anything else.
        self._doubtful: list[UUID] = []

    def resize(self, slots: Mapping[str, int]) -> None:
        """Change how many jobs of each queue run here; takes effect with the next claim."""
        self._slots = dict(slots)
        self.poller.wake()

    def drain(self) -> None:
        """Claim nothing more."""
        self._draining = True

    def unanswered(self) -> set[UUID]:
        """Claims that were asked for and whose answer has not arrived."""
        return set(self._doubtful)

    def is_draining(self) -> bool:
        """Whether nothing more is claimed."""
        return self._draining

    async def _poll(self) -> float:
        if self.is_draining():
            return 60.0
        async with self._db.core() as conn:
            await self._release_doubtful(conn)
            await self._refresh_lanes(conn)
            free = {lane.id: lane.free for lane in self.lanes.values() if lane.free}
            if not free:
                return POLL_S
            jobs = await self._claim(conn, free)
            if self.is_draining():
                # The drain began while the claim was under way: hand over nothing that would only be interrupted.
                if jobs:
                    await store.release_claim(conn, self._node.id, jobs[0].claim)
                return 60.0
            for job in jobs:
                lane = next(lane for lane in self.lanes.values() if lane.name == job.queue)
                lane.running += 1
                self._start(job, lane)
            if jobs:
                return 0.0
            due = await store.next_due_s(conn, list(free), self._kinds(), self._node.store)
        return POLL_S if due is None else min(POLL_S, max(due, SHORTEST_S))

    async def _claim(self, conn: asyncpg.Connection, free: Mapping[int, int]) -> list[Job]:
        token = uuid.uuid4()
        names = {lane.id: lane.name for lane in self.lanes.values()}
        self._doubtful.append(token)
        jobs = await store.claim(conn, free, names, token, self._node.id, self._kinds(), self._node.store)
        self._doubtful.remove(token)
        return jobs

    async def _release_doubtful(self, conn: asyncpg.Connection) -> None:
        while self._doubtful:
            await store.release_claim(conn, self._node.id, self._doubtful[0])
            self._doubtful.pop(0)

    async def _refresh_lanes(self, conn: asyncpg.Connection) -> None:
        for row in await queue_store.queues(conn):
            if row["name"] not in self._slots:
                continue
            lane = self.lanes.setdefault(row["id"], Lane(row["id"], row["name"], 0))
            lane.slots = self._slots[row["name"]]
            lane.paused = row["paused"]
