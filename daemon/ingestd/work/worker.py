"""The worker pool of a node: slots that run claimed jobs one after the other, and how they drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ingestd.cause import on_behalf_of
from ingestd.errors import ConfigurationError
from ingestd.events import Bus, JobStarted, Notice
from ingestd.jobs.client import Client, use_client
from ingestd.jobs.model import Job, NewJob
from ingestd.jobs.registry import Registry
from ingestd.postgres.pool import Database
from ingestd.service import Poller
from ingestd.work import runner
from ingestd.work.acker import Acker, Pending
from ingestd.work.claimer import Claimer
from ingestd.work.context import Context
from ingestd.work.endings import PLAIN
from ingestd.work.executors.process import ProcessExecutor, unreachable
from ingestd.work.executors.thread import ThreadExecutor
from ingestd.work.holdings import Holdings
from ingestd.work.lane import Lane
from ingestd.work.node import NodeIdentity
from ingestd.work.presence import Notes
from ingestd.work.reserve import Reservations
from ingestd.work.resources import ResourceKeeper
from ingestd.work.running import Running

REPORT_EVERY_S = 1.0
MOST_CUT_OFF_KEPT = 1000
CANCEL_GRACE_S = 3.0
FORCED_GRACE_S = 0.5
# A job that goes on so long after it was told to end gives up its slot, not its claim.
PATIENCE_S = 10.0
MOST_ADRIFT = 100


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
        self._slots: set[asyncio.Task[None]] = set()
        self._adrift = 0
        self._idle: asyncio.Future[None] | None = None
        self._places = runner.Places(
            ResourceKeeper(bus),
            {"thread": ThreadExecutor(), "process": ProcessExecutor(db, bus)},
        )
        self.patience_s = PATIENCE_S
        # Where a rescuer of this machine reads, after our death, which jobs had started.
        self.notes = Notes()
        # How often in a row jobs were handed back because they had lost their connection.
        self._cut_off: dict[int, int] = {}
        # Asked once a second: it costs too much for every job.
        self._tell_starts = bus.wants(JobStarted)
        self.acker = Acker(db, bus, on_progress)
        self.claimer = Claimer(db, node, bus, registry.kinds, self._fit_slots, slots, self.acker.is_full)
        self.reservations = Reservations(self.claimer, registry, node, self._give_back_unstarted)
        self._client = Client(db, self._expect, self.reservations)
        self._holdings = Holdings(db, bus, node, self.claimer, self.acker, self._running, self._interrupt, self._give_back_unstarted)
        self.reporter = Poller("reporter", self._each_second, bus)

    @property
    def running(self) -> int:
        """Jobs that run here now."""
        return len(self._running)

    async def open(self) -> None:
        """Make what handlers share, and see that handlers of processes can be found there.

        Raises:
            ConfigurationError: something of it cannot be done; says what and why.
        """
        specs = self._registry.specs()
        problems = [problem for spec in specs if (problem := unreachable(spec))]
        if problems:
            raise ConfigurationError(problems)
        await self._places.resources.open(spec.lifespan for spec in specs if spec.lifespan is not None and spec.executor != "process")

    def running_jobs(self) -> Mapping[int, Running]:
        """The jobs that run here now, by id; a copy that stays as it is."""
        return dict(self._running)

    def interrupt(self, job_id: int, why: str) -> bool:
        """Tell a running job to end.

        Args:
            why: one of `runner.Interrupted`; says how it is to end.

        Returns:
            False if it does not run here, or was told before.
        """
        running = self._running.get(job_id)
        if running is None or running.ctx.interrupted:
            return False
        self._interrupt(running, why)
        return True

    def _expect(self, jobs: Sequence[NewJob]) -> None:
        """Jobs that were enqueued here need no message from Postgres."""
        for job in jobs:
            if job.run_at is None and job.delay is None:
                spec = self._registry.get(job.kind)
                queue = job.queue or (spec.queue if spec else None)
                self.claimer.expect(queue, job.priority if job.priority is not None or spec is None else spec.priority)

    def wake(self) -> None:
        """Look for jobs now."""
        self.claimer.look()

    async def drain(self, timeout_s: float, force: asyncio.Event) -> int:
        """Claim nothing more, let jobs finish, hand the rest back without spending an attempt, write every ending.

        Args:
            timeout_s: how long jobs may go on, in seconds.
            force: when set, jobs are handed back at once.

        Returns:
            How many running jobs were handed back.
        """
        self.claimer.drain()
        for lane in self.claimer.lanes.values():
            for job in lane.take_all():
                self._give_back_unstarted(job)
        await self._wait_idle(timeout_s, force)
        left = list(self._running.values())
        for running in left:
            self._interrupt(running, runner.Interrupted.DRAIN)
        if left:
            await self._wait_idle(FORCED_GRACE_S if force.is_set() else CANCEL_GRACE_S, asyncio.Event())
        for running in list(self._running.values()):
            self._abandon(running)
        for slot in self._slots:
            slot.cancel()
        await self.claimer.close()
        await self._client.rest()
        written = await self.acker.flush()
        await self._places.close()
        if written:
            return len(left)
        kept = self.acker.unwritten
        told = f"{kept} jobs could not be handed back, for Postgres took nothing any more; another node or the next start takes them up"
        self._bus.emit(Notice(told))
        return max(len(left) - kept, 0)

    def _give_back_unstarted(self, job: Job, why: str = "not started") -> None:
        self.acker.submit(Pending(job, runner.give_back(job), why))
        if job.crashes:
            self.claimer.suspect_ended(job.id)

    async def _wait_idle(self, timeout_s: float, force: asyncio.Event) -> None:
        """Wait until nothing runs but what does not end anyway."""
        if self._only_adrift():
            return
        # A future instead of an event: that would be set and cleared for every job.
        self._idle = asyncio.get_running_loop().create_future()
        forced = asyncio.ensure_future(force.wait())
        waits: set[asyncio.Future[Any]] = {self._idle, forced}
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        self._idle = None

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and self._only_adrift():
            self._idle.set_result(None)

    def _only_adrift(self) -> bool:
        return all(running.adrift for running in self._running.values())

    def _fit_slots(self, lane: Lane) -> None:
        """Give a queue as many tasks as it has slots; those that are too many end by themselves."""
        while lane.consumers < lane.slots:
            lane.consumers += 1
            slot = asyncio.create_task(self._slot(lane), name=f"{lane.name} slot {lane.consumers}")
            self._slots.add(slot)
            slot.add_done_callback(self._slots.discard)
        if lane.consumers > lane.slots:
            lane.dismiss()
        if lane.paused:
            for job in lane.take_all():
                self._give_back_unstarted(job, "its queue was paused")

    async def _slot(self, lane: Lane) -> None:
        """One slot: run jobs one after the other. No task is made a job: that alone would cost a quarter of the speed."""
        task = asyncio.current_task()
        assert task is not None
        cell = self.notes.take()
        with use_client(self._client):
            while lane.consumers <= lane.slots:
                job = lane.take()
                if job is None:
                    await lane.wait()
                elif await self._run(lane, job, task, cell):
                    break
            else:
                lane.consumers -= 1
        self.notes.give_back(cell)

    async def _run(self, lane: Lane, job: Job, task: asyncio.Task[None], cell: int) -> bool:
        """Run one job; returns whether the slot is no longer needed, for another one has taken its place."""
        spec = self._registry.get(job.kind)
        assert spec is not None, "only known kinds are claimed"
        began = time.monotonic()
        # Nothing here refers back to what holds it: a ring would outlive its job until the collector finds it, thousands at a time.
        ctx = Context(job, self._db, self._node.id, self._bus)
        running = Running(job, ctx, task, lane, began)
        if self._cut_off:
            ctx.cut_off = self._cut_off.get(job.id, 0)
        self._running[job.id] = running
        on_behalf_of(job)
        self.notes.cells[cell] = job.id
        lane.running += 1
        if self._tell_starts:
            self._bus.emit(JobStarted(job.id, job.kind, job.attempt, job.correlation_id))
        try:
            ending = await runner.run(ctx, spec, self._places)
        except Exception as error:  # noqa: BLE001 - it never raises; were it wrong, each such job would take a slot of its queue with it
            ending = runner.unforeseen(job, error)
            self._bus.emit(Notice(f"job {job.id} ({job.kind}): {ending.reason}"))
        finally:
            if running.adrift:
                self._adrift -= 1
            else:
                lane.running -= 1
                now = time.monotonic()
                lane.ended(now - began, now)
            if self._running.get(job.id) is running:
                # Else it was taken from us, and claimed here once more: that one is still to be watched over.
                del self._running[job.id]
            self.notes.cells[cell] = 0
            if self._idle is not None:
                self._tell_idle()
        if ending is PLAIN and not running.abandoned:
            self.acker.done(job, ctx.started, ctx.elapsed_ms())
        else:
            self._end(running, ending)
        if ending.cut_off or self._cut_off:
            self._count_cut_off(job.id, ending)
        if job.crashes:
            self.claimer.suspect_ended(job.id)
        if lane.held < lane.low and not lane.empty:
            self.claimer.poller.wake()
        if task.cancelling():
            await runner.forget_cancellation(task)
        return running.adrift

    def _count_cut_off(self, job_id: int, ending: runner.Ending) -> None:
        times = self._cut_off.pop(job_id, 0)
        if ending.cut_off:
            self._cut_off[job_id] = times + 1
            if len(self._cut_off) > MOST_CUT_OFF_KEPT:
                del self._cut_off[next(iter(self._cut_off))]

    def _abandon(self, running: Running) -> None:
        """Hand back a job that does not end although it was told to: this process is about to, and its late writes are fenced."""
        if running.ctx.acked is None:
            running.abandoned = True
            self.acker.submit(Pending(running.job, runner.give_back(running.job), "handed back"))

    def _end(self, running: Running, ending: runner.Ending) -> None:
        if running.abandoned:
            return
        if ending.write is not None:
            self.acker.submit(Pending(running.job, ending.write, ending.reason))
        elif running.ctx.acked is not None:
            self.acker.tell_acked(running.job, running.ctx.acked)
        else:
            self.acker.tell_stale(running.job)

    def _interrupt(self, running: Running, why: str) -> None:
        if not running.ctx.interrupted and self._running.get(running.job.id) is running:
            running.ctx.interrupted = why
            running.told_at = time.monotonic()
            running.ctx.cancelled = True
            if running.ctx.elsewhere is not None:
                running.ctx.elsewhere.stop()
            else:
                running.task.cancel()

    async def _replace_slots_of_the_deaf(self) -> None:
        """A job that goes on although it was told to end keeps its claim until it has; others get a slot in place of its own."""
        now = time.monotonic()
        for running in list(self._running.values()):
            told_at = running.told_to_end_at
            if running.adrift or not told_at or now - told_at < self.patience_s or self._adrift >= MOST_ADRIFT:
                continue
            if running.ctx.elsewhere is not None and running.ctx.elsewhere.killable:
                continue
            running.adrift = True
            self._adrift += 1
            running.lane.running -= 1
            running.lane.consumers -= 1
            self._fit_slots(running.lane)
            await self._tell_adrift(running, now - told_at)
            self._tell_idle()

    async def _tell_adrift(self, running: Running, seconds: float) -> None:
        job, stack = running.job, await running.stack()
        why = running.ctx.interrupted or "timeout"
        where = stack.strip().splitlines()[-1].strip() if stack.strip() else "an unknown place"
        running.ctx.shown = {
            "fraction": (running.ctx.shown or {}).get("fraction"),
            "text": f"goes on although it was told to end ({why}), at {where}"[:200],
        }
        message = f"job {job.id} ({job.kind}) goes on {seconds:.0f} s after it was told to end ({why}); it keeps its claim"
        self._bus.emit(Notice(message, details={"job_id": job.id, "kind": job.kind, "why": why, "stack": stack}))

    async def _each_second(self) -> float:
        await self._replace_slots_of_the_deaf()
        self._tell_starts = self._bus.wants(JobStarted)
        await self._holdings.compare()
        return REPORT_EVERY_S
