"""The worker pool of a node: claimer, running jobs and acker, and how they drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from ingestd.events import Bus, JobStarted, Notice
from ingestd.jobs.model import Job
from ingestd.jobs.registry import Registry
from ingestd.jobs.store import claim as claim_store
from ingestd.jobs.store.ack import PutBack
from ingestd.postgres.pool import Database
from ingestd.service import Poller
from ingestd.work import runner
from ingestd.work import store as node_store
from ingestd.work.acker import Acker, Pending
from ingestd.work.claimer import Claimer, Lane
from ingestd.work.context import Context
from ingestd.work.node import NodeIdentity

REPORT_EVERY_S = 1.0
MISSING_LOOKS = 10
RECONCILE_EVERY_S = 2.0
CANCEL_GRACE_S = 3.0
FORCED_GRACE_S = 0.5


@dataclass(slots=True)
class Running:
    """A job that runs here."""

    job: Job
    lane: Lane
    ctx: Context
    task: asyncio.Task[None] | None = None
    interrupted: list[str] = field(default_factory=list)
    progress: dict[str, Any] | None = None
    missing: int = 0
    finished: bool = False


class Worker:
    """Runs jobs of this node's queues.

    Args:
        db: its pools.
        bus: where events are told.
        registry: the kinds it can run.
        node: who it is.
        slots: queue name -> jobs at the same time.
        on_progress: called when an ack may have freed other jobs.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        registry: Registry,
        node: NodeIdentity,
        slots: Mapping[str, int],
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._db = db
        self._bus = bus
        self._registry = registry
        self._node = node
        self._running: dict[int, Running] = {}
        self._reports = 0
        self._reconcile_at = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self.claimer = Claimer(db, node, bus, registry.kinds, self._start, slots)
        self.acker = Acker(db, bus, on_progress)
        self.reporter = Poller("reporter", self._report, bus)

    @property
    def running(self) -> int:
        """Jobs that run here now."""
        return len(self._running)

    def wake(self) -> None:
        """Look for jobs now."""
        self.claimer.poller.wake()

    async def drain(self, timeout_s: float, force: asyncio.Event) -> int:
        """Claim nothing more, let jobs finish, hand the rest back without spending an attempt, write every ending.

        Args:
            timeout_s: how long jobs may go on, in seconds.
            force: when set, jobs are handed back at once.

        Returns:
            How many jobs were handed back.
        """
        self.claimer.drain()
        await self._wait_idle(timeout_s, force)
        left = list(self._running.values())
        for running in left:
            self._interrupt(running, runner.Interrupted.DRAIN)
        tasks = [running.task for running in left if running.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=FORCED_GRACE_S if force.is_set() else CANCEL_GRACE_S)
        for running in list(self._running.values()):
            self._abandon(running)
        if not await self.acker.flush():
            kept = len(self.acker.pending_ids())
            self._bus.emit(Notice(f"Postgres is away: {kept} jobs could not be handed back; another node or the next start takes them up"))
            return len(left) - kept
        return len(left)

    async def _wait_idle(self, timeout_s: float, force: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(self._idle.wait()), asyncio.ensure_future(force.wait())]
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _start(self, job: Job, lane: Lane) -> None:
        running = Running(job, lane, ctx=Context(job, self._db, self._node.id, self._bus))
        running.ctx.on_progress = lambda fraction, text: self._show(running, fraction, text)
        self._running[job.id] = running
        self._idle.clear()
        running.task = asyncio.create_task(self._run(running), name=f"job {job.id} {job.kind}")

    async def _run(self, running: Running) -> None:
        job = running.job
        self._bus.emit(JobStarted(job.id, job.kind, job.attempt, job.correlation_id))
        spec = self._registry.get(job.kind)
        assert spec is not None, "only known kinds are claimed"
        ending = await runner.run(running.ctx, spec, running.interrupted)
        if ending.write is None:
            self._finish(running)
            self._after_own_ack(running)
        else:
            self.acker.submit(Pending(job, ending.write, ending.reason, lambda: self._finish(running)))

    def _abandon(self, running: Running) -> None:
        """Hand back a job that does not end although it was told to: this process is about to, and its late writes are fenced."""
        if running.job.id not in self.acker.pending_ids() and running.ctx.acked is None:
            write = PutBack(running.job.id, running.job.claim, timedelta(), spent=False)
            self.acker.submit(Pending(running.job, write, "handed back", lambda: self._finish(running)))

    def _finish(self, running: Running) -> None:
        """Give the slot back; called once the ending is written."""
        if self._running.get(running.job.id) is running:
            del self._running[running.job.id]
        if running.finished:
            return
        running.finished = True
        running.lane.running -= 1
        if not self._running:
            self._idle.set()
        self.wake()

    def _after_own_ack(self, running: Running) -> None:
        if running.ctx.acked is not None:
            self.acker.tell_acked(running.job, running.ctx.acked)
        else:
            self.acker.tell_stale(running.job)

    def _show(self, running: Running, fraction: float | None, text: str) -> None:
        running.progress = {"fraction": fraction, "text": text}

    def _interrupt(self, running: Running, why: str) -> None:
        if running.task is not None and not running.task.done() and not running.interrupted:
            running.interrupted.append(why)
            running.task.cancel()

    async def _report(self) -> float:
        """Publish progress, hear of cancellations, and now and then compare what is held with what the database says."""
        running = dict(self._running)
        if not running and self._reports == 0:
            await self._reconcile()
            return REPORT_EVERY_S
        progress = {str(job_id): entry.progress for job_id, entry in running.items() if entry.progress}
        async with self._db.services() as conn:
            await node_store.write_progress(conn, self._node.id, list(running), progress)
            held = {row["id"]: row for row in await claim_store.held(conn, self._node.id)}
        self._reports = self._reports + 1 if running else 0
        for job_id, entry in running.items():
            if job_id in held and held[job_id]["cancel"]:
                self._interrupt(entry, runner.Interrupted.CANCEL)
        self._drop_lost(running, held)
        await self._reconcile()
        return REPORT_EVERY_S

    async def _reconcile(self) -> None:
        """Give back what the database says this node holds and nobody here knows of.

        A claim that was cut off may be carried out after its release: the server finishes what it has begun.
        """
        if time.monotonic() < self._reconcile_at or self.claimer.is_draining():
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
        return {entry.job.claim for entry in self._running.values()} | self.claimer.unanswered()

    def _drop_lost(self, running: Mapping[int, Running], held: Mapping[int, Any]) -> None:
        """A job rescued by others while we were cut off: stop working on it. Missed for ten seconds, for an ack may be under way."""
        waiting = self.acker.pending_ids()
        for job_id, entry in running.items():
            gone = job_id not in held or held[job_id]["claim"] != entry.job.claim
            entry.missing = entry.missing + 1 if gone and job_id not in waiting and entry.ctx.acked is None else 0
            if entry.missing >= MISSING_LOOKS:
                self._interrupt(entry, runner.Interrupted.LOST)
