"""What a node holds: the jobs it knows of, compared once a second with what the database says of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any
from uuid import UUID

from ingestd.events import Bus, Notice
from ingestd.jobs.model import Job
from ingestd.jobs.store import claim as claim_store
from ingestd.postgres.pool import Database
from ingestd.work import runner
from ingestd.work import store as node_store
from ingestd.work.acker import Acker
from ingestd.work.claimer import Claimer
from ingestd.work.node import NodeIdentity
from ingestd.work.running import Running

MISSING_LOOKS = 10
RECONCILE_EVERY_S = 2.0


class Holdings:
    """What this node holds, here and as the database has it; the database is right.

    Args:
        db: its service connections.
        bus: told of jobs that are given back.
        node: who holds them.
        claimer: has those that have not begun.
        acker: has those whose ending is not written.
        running: those that run here, by id.
        interrupt: tells one of those to end, and why: one of `runner.Interrupted`.
        give_back: returns a job that has not begun.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        node: NodeIdentity,
        claimer: Claimer,
        acker: Acker,
        running: Mapping[int, Running],
        interrupt: Callable[[Running, str], None],
        give_back: Callable[[Job], None],
    ) -> None:
        self._db = db
        self._bus = bus
        self._node = node
        self._claimer = claimer
        self._acker = acker
        self._running = running
        self._interrupt = interrupt
        self._give_back = give_back
        self._reported = False
        self._reconcile_at = 0.0

    async def compare(self) -> None:
        """Publish progress, hear of cancellations, stop what others have taken, give back what nobody here knows of."""
        running = dict(self._running)
        if running or not self._reported:
            await self._report(running)
        await self._reconcile()

    async def _report(self, running: Mapping[int, Running]) -> None:
        progress = {str(job_id): entry.ctx.shown for job_id, entry in running.items() if entry.ctx.shown}
        progress["backends"] = {str(job_id): entry.ctx.backend for job_id, entry in running.items() if entry.ctx.backend}
        async with self._db.services() as conn:
            await node_store.write_progress(conn, self._node.id, list(running), progress)
            held = {row["id"]: row for row in await claim_store.held(conn, self._node.id)}
        self._reported = not running
        self._stop_asked({job_id for job_id, row in held.items() if row["cancel"]})
        self._drop_lost(running, held)

    def _stop_asked(self, ids: AbstractSet[int]) -> None:
        """End what somebody has asked to stop, begun or not."""
        if not ids:
            return
        for entry in [entry for job_id, entry in self._running.items() if job_id in ids]:
            self._interrupt(entry, runner.Interrupted.CANCEL)
        for lane in self._claimer.lanes.values():
            for job in lane.withdraw(ids):
                self._give_back(job)

    def _drop_lost(self, running: Mapping[int, Running], held: Mapping[int, Any]) -> None:
        """A job rescued by others while we were cut off: stop working on it. Missed for ten seconds, for an ack may be under way."""
        for job_id, entry in running.items():
            gone = job_id not in held or held[job_id]["claim"] != entry.job.claim
            entry.missing = entry.missing + 1 if gone and entry.ctx.acked is None else 0
            if entry.missing >= MISSING_LOOKS:
                self._interrupt(entry, runner.Interrupted.LOST)

    async def _reconcile(self) -> None:
        """Give back what the database says this node holds and nobody here knows of.

        A claim that was cut off may be carried out after its release: the server finishes what it has begun.
        """
        if time.monotonic() < self._reconcile_at or self._claimer.is_draining():
            return
        self._reconcile_at = time.monotonic() + RECONCILE_EVERY_S
        # Known before or after the look: a claim or an ack may be under way during it.
        known = self._known_claims()
        async with self._db.services() as conn:
            held = await claim_store.held(conn, self._node.id)
            known |= self._known_claims()
            for claim in {row["claim"] for row in held} - known:
                released = await claim_store.release_claim(conn, self._node.id, claim)
                if released:
                    self._bus.emit(
                        Notice(f"gave back {len(released)} jobs of a claim whose answer was lost", details={"jobs": released[:20]})
                    )

    def _known_claims(self) -> set[UUID]:
        ready = {job.claim for lane in self._claimer.lanes.values() for job in lane.waiting()}
        running = {entry.job.claim for entry in self._running.values()}
        return ready | running | self._acker.claims() | self._claimer.unanswered()
