"""Takes due jobs for the slots of each queue.

Two ways of looking: behind each queue's cursor, whenever something is known or likely to be there; and a sweep of all queues from the
front, once a second, which needs no luck. A node that loses every wake-up still works, a second late.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from ingestd.events import Bus
from ingestd.jobs.model import Job
from ingestd.jobs.store import claim as store
from ingestd.jobs.store import limits as limit_store
from ingestd.jobs.store import queues as queue_store
from ingestd.jobs.store.claim import Claimant
from ingestd.jobs.store.limits import Taken
from ingestd.postgres.kept import Kept
from ingestd.postgres.pool import Database
from ingestd.service import Poller
from ingestd.work.cursor import sweep_again_in
from ingestd.work.idle import LOOK_AGAIN_S, IdleFlags
from ingestd.work.lane import Lane
from ingestd.work.limits import Turn
from ingestd.work.node import NodeIdentity

IDLE_S = 1.0
SHORTEST_S = 0.002
# Larger ones are no faster, and what is urgent waits until the one under way has been answered.
LIMIT = 600


class Claimer:
    """Keeps this node's slots filled.

    Args:
        db: its pools.
        node: who claims.
        bus: where loop failures are told.
        kinds: what this process can run, asked at each claim.
        on_lane: told of a queue that is served from now on, or with other slots.
        slots: queue name -> slots; queues that are not named are not served.
        hold: whether to claim nothing for the moment, because too much waits to be acked.
    """

    def __init__(
        self,
        db: Database,
        node: NodeIdentity,
        bus: Bus,
        kinds: Callable[[], list[str]],
        on_lane: Callable[[Lane], None],
        slots: Mapping[str, int],
        hold: Callable[[], bool] = lambda: False,
    ) -> None:
        self.poller = Poller("claimer", self._poll, bus)
        self.lanes: dict[int, Lane] = {}
        self._draining = False
        self._conn = Kept(db.core)
        self._node = node
        self._kinds = kinds
        self._on_lane = on_lane
        self._slots = dict(slots)
        self._hold = hold
        # Claims whose answer never came: what they took is given back before anything else.
        self._doubtful: list[UUID] = []
        # Claims that jobs on their way into the queue are born with.
        self._reserved: set[UUID] = set()
        self._filling = False
        self._sweep_at = 0.0
        self._suspect: int | None = None
        self._more_suspects = False
        self._idle = IdleFlags(node.id)
        self._look_again: list[float] = []

    def resize(self, slots: Mapping[str, int]) -> None:
        """Change how many jobs of each queue run here; takes effect with the next sweep."""
        self._slots = dict(slots)
        self.look()

    def drain(self) -> None:
        """Claim nothing more."""
        self._draining = True

    async def close(self) -> None:
        """Claim nothing ever again, and give its connection back."""
        self.drain()
        await self._conn.close()

    def unanswered(self) -> set[UUID]:
        """Claims that were asked for and whose answer has not arrived."""
        return self._reserved.union(self._doubtful)

    def lane_with_room(self, queue: str) -> Lane | None:
        """The lane of a queue where nothing waits, no limit holds and a slot is free; None if it is not such a one.

        Nor while a claim for all free slots is under way: of what it brings, something would lie here claimed behind a long job.
        """
        if self._draining or self._filling or self._hold():
            return None
        return next((lane for lane in self.lanes.values() if lane.name == queue and lane.has_room), None)

    def asked(self, token: UUID) -> None:
        """A claim is under way that is not this loop's."""
        self._reserved.add(token)

    def answered(self, token: UUID) -> None:
        """That claim's answer has come."""
        self._reserved.discard(token)

    def doubt(self, token: UUID) -> None:
        """That claim's answer never came."""
        self._doubtful.append(token)
        self._reserved.discard(token)
        self.look()

    def is_draining(self) -> bool:
        """Whether nothing more is claimed."""
        return self._draining

    def look(self) -> None:
        """Something may wait somewhere: sweep now."""
        self._sweep_at = 0.0
        self.poller.wake()

    def expect(self, queue: str | None, priority: int | None) -> None:
        """Something due now was enqueued in this process.

        Args:
            queue: None: whatever its kind's is, elsewhere.
        """
        for lane in self.lanes.values():
            if lane.name == queue:
                lane.cursor.know([-(priority or 0)])
                lane.empty = False
                self.poller.wake()

    def hear(self, payload: str) -> None:
        """A wake-up: `queue_id rank run_at` of what was enqueued, or less."""
        try:
            queue, rank, moment = payload.split(" ")
            lane = self.lanes[int(queue)]
            lane.cursor.lower(int(rank), datetime.fromtimestamp(float(moment), UTC))
        except (ValueError, KeyError, OverflowError, OSError):
            self.look()
            return
        lane.empty = False
        self.poller.wake()

    def scale(self, lane: Lane, slots: int) -> None:
        """Give a queue other slots within its bounds."""
        lane.slots = slots
        lane.empty = False
        self._on_lane(lane)
        self.poller.wake()

    def suspect_ended(self, job_id: int) -> None:
        """A job that was taken alone has ended; the next suspect may run."""
        if self._suspect == job_id:
            self._suspect = None
            self._more_suspects = True
            self.poller.wake()

    async def _poll(self) -> float:
        if self._draining:
            return 60.0
        if self._hold():
            return SHORTEST_S
        try:
            async with self._conn as conn:
                return await self._look_everywhere(conn)
        except BaseException:
            self._idle.forget()
            raise

    async def _look_everywhere(self, conn: asyncpg.Connection) -> float:
        await self._release_doubtful(conn)
        something_waits = True
        if time.monotonic() >= self._sweep_at:
            something_waits = await self._sweep(conn)
        if self._more_suspects and self._suspect is None:
            await self._claim_suspect(conn)
        busy = False
        for lane in list(self.lanes.values()):
            wanted = 0 if lane.empty else min(lane.wanted, LIMIT)
            if wanted and lane.turn is None:
                busy |= await self._claim(conn, lane, wanted)
            elif wanted and lane.turn is not None and lane.turn.due(time.monotonic(), lane.running):
                busy |= await self._claim_within_limit(conn, lane, lane.turn, wanted)
        if busy:
            return 0.0
        # The slots begin before this loop sees to what comes next.
        await asyncio.sleep(0)
        if await self._idle.tell(conn, self.lanes.values()):
            # Only now does an enqueue elsewhere wake this node: look for what came just before.
            self._look_again = list(LOOK_AGAIN_S)
            self._sweep_at = 0.0
            return 0.0
        return await self._until_next(conn, something_waits)

    async def _claim(self, conn: asyncpg.Connection, lane: Lane, wanted: int) -> bool:
        jobs = await self._fill(lambda who: store.claim(conn, who, lane.id, lane.name, wanted, lane.cursor.bounds()))
        lane.cursor.advance(jobs)
        lane.empty = len(jobs) < wanted
        await self._hand_over(conn, jobs, share=lane.cursor.low_first)
        return bool(jobs) and not lane.empty

    async def _claim_within_limit(self, conn: asyncpg.Connection, lane: Lane, turn: Turn, wanted: int) -> bool:
        bounds = lane.cursor.bounds()
        taken = await self._take_within(lambda who: limit_store.claim_within_limit(conn, who, lane.id, lane.name, wanted, bounds))
        turn.note(time.monotonic(), taken, wanted, lane.running)
        lane.cursor.advance(taken.jobs)
        lane.empty = taken.found_less_than(wanted)
        await self._hand_over(conn, taken.jobs)
        return bool(taken.jobs) and not lane.empty

    async def _sweep(self, conn: asyncpg.Connection) -> bool:
        """Look at all queues from the front; returns whether anything is open there, due or not."""
        began = time.monotonic()
        await self._refresh_lanes(conn)
        hungry = [lane for lane in self.lanes.values() if lane.wanted]
        waiting = await store.ranks(conn, [lane.id for lane in hungry]) if hungry else []
        for queue, rank in waiting:
            self.lanes[queue].cursor.know([rank])
        if waiting:
            free = {lane.id: min(lane.wanted, LIMIT) for lane in hungry if lane.turn is None and lane.wanted}
            names = {lane.id: lane.name for lane in hungry}
            jobs = await self._fill(lambda who: store.sweep(conn, who, free, names)) if free else []
            self._note_sweep(jobs, free)
            await self._hand_over(conn, jobs)
            self._more_suspects = True
        for lane in hungry:
            if lane.turn is not None:
                # Its own claim is its sweep, begun at the front.
                lane.cursor.reset()
                lane.empty = False
        again = sweep_again_in(time.monotonic() - began)
        self._sweep_at = time.monotonic() + (self._look_again.pop(0) if self._look_again else again)
        return bool(waiting) or len(hungry) < sum(not lane.paused for lane in self.lanes.values())

    async def _claim_suspect(self, conn: asyncpg.Connection) -> None:
        """One after the other: after a kill there may be hundreds, nearly all of them innocent."""
        hungry = [lane for lane in self.lanes.values() if lane.wanted]
        names = {lane.id: lane.name for lane in hungry if lane.turn is None}
        suspects = await self._take(lambda who: store.claim_suspect(conn, who, names)) if names else []
        for lane in hungry:
            if not suspects and lane.turn is not None and lane.turn.due(time.monotonic(), lane.running):
                suspects = await self._suspect_within_limit(conn, lane)
        self._suspect = suspects[0].id if suspects else None
        self._more_suspects = False
        await self._hand_over(conn, suspects)

    async def _suspect_within_limit(self, conn: asyncpg.Connection, lane: Lane) -> list[Job]:
        taken = await self._take_within(lambda who: limit_store.claim_suspect_within_limit(conn, who, lane.id, lane.name))
        return taken.jobs

    def _note_sweep(self, jobs: list[Job], free: Mapping[int, int]) -> None:
        found: dict[str, list[Job]] = {}
        for job in jobs:
            found.setdefault(job.queue, []).append(job)
        for queue, wanted in free.items():
            lane = self.lanes[queue]
            taken = found.get(lane.name, [])
            lane.cursor.advance(taken)
            if len(taken) == wanted:
                # As many as there was room for: more may lie there, behind the cursor too.
                lane.cursor.reset()
                lane.empty = False

    async def _fill(self, claim: Callable[[Claimant], Awaitable[list[Job]]]) -> list[Job]:
        self._filling = True
        try:
            return await self._take(claim)
        finally:
            self._filling = False

    async def _take(self, claim: Callable[[Claimant], Awaitable[list[Job]]]) -> list[Job]:
        token = uuid.uuid4()
        self._doubtful.append(token)
        jobs = await claim(Claimant(token, self._node.id, self._kinds(), self._node.store))
        self._doubtful.remove(token)
        return jobs

    async def _take_within(self, claim: Callable[[Claimant], Awaitable[Taken]]) -> Taken:
        came: list[Taken] = []

        async def take(who: Claimant) -> list[Job]:
            came.append(await claim(who))
            return came[0].jobs

        await self._take(take)
        return came[0]

    async def _hand_over(self, conn: asyncpg.Connection, jobs: list[Job], *, share: bool = False) -> None:
        if not jobs:
            return
        if self._draining:
            # The drain began while the claim was under way: start nothing that would only be interrupted.
            await store.release_claim(conn, self._node.id, jobs[0].claim)
            return
        by_queue: dict[str, list[Job]] = {}
        for job in jobs:
            by_queue.setdefault(job.queue, []).append(job)
        for lane in self.lanes.values():
            if lane.name in by_queue:
                lane.put(by_queue[lane.name], share=share)

    async def _until_next(self, conn: asyncpg.Connection, something_waits: bool) -> float:
        open_lanes = [lane.id for lane in self.lanes.values() if not lane.paused and something_waits]
        due = await store.next_due_s(conn, open_lanes, self._kinds(), self._node.store) if open_lanes else None
        now = time.monotonic()
        wait = min(IDLE_S, max(self._sweep_at - now, SHORTEST_S))
        turns = [lane.turn.at - now for lane in self.lanes.values() if lane.turn is not None and not lane.empty and lane.wanted]
        wait = max(min([wait, *turns]), SHORTEST_S)
        if due is None or due >= wait:
            return wait
        self._sweep_at = now + max(due, SHORTEST_S)
        return max(due, SHORTEST_S)

    async def _release_doubtful(self, conn: asyncpg.Connection) -> None:
        while self._doubtful:
            await store.release_claim(conn, self._node.id, self._doubtful[0])
            self._doubtful.pop(0)

    async def _refresh_lanes(self, conn: asyncpg.Connection) -> None:
        for row in await queue_store.queues(conn):
            if row["name"] not in self._slots:
                continue
            lane = self.lanes.get(row["id"])
            if lane is None:
                lane = self.lanes[row["id"]] = Lane(row["id"], row["name"], 0)
            most = self._slots[row["name"]]
            lane.most, lane.least = most, min(row["min_concurrency"], most)
            slots = min(max(lane.slots, lane.least), most) if lane.least else most
            limits = (row["global_concurrency"], row["rate_count"], row["rate_period"]) if row["limited"] else ()
            if lane.limits != limits or (lane.paused and not row["paused"]):
                lane.limits, lane.turn = limits, Turn() if limits else None
            if (lane.slots, lane.paused) != (slots, row["paused"]):
                lane.slots, lane.paused = slots, row["paused"]
                lane.empty = False
                self._on_lane(lane)
