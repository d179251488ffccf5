"""A queue as this node serves it: its slots, what was claimed ahead for them, and what runs."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from ingestd.jobs.model import Job
from ingestd.work.cursor import Cursor
from ingestd.work.limits import Turn

# Claimed ahead: as much as the slots get through in this time, by what was learned of their jobs.
PREFETCH_S = 0.05
PREFETCH_MOST = 2000
LEARNING = 0.05
# Jobs that never wait for anything would run one after the other, and the event loop come to nothing else: no claim, no ack.
TURN_S = 0.0005
# Before every rank there is.
FIRST = -1000


@dataclass(slots=True)
class Lane:
    """One queue on one node.

    Args:
        slots: jobs at the same time.
        least: slots are scaled between this and `most`; 0: they are not.
        most: slots at the most; they are what the configuration says.
        scaled_at: when the slots were scaled last.
        reason: why.
        limits: what the queue is limited to, as the database has it.
        turn: when to ask again, where the queue has limits; None where it has none.
        paused: nothing is claimed from it.
        running: jobs that run now.
        ready: claimed and not started: rank -> jobs, more urgent ranks first.
        held: how many those are.
        reserved: slots kept for jobs that this process is just enqueueing.
        empty: the last claim found less than was asked for.
        job_s: learned seconds a job.
        consumers: tasks that run its jobs.
        low: with fewer ready than this, it is time to claim again.
        clock: when its last job ended, `time.monotonic()`.
        turn_ends: when its slots let the event loop see to everything else, by the same clock.
    """

    id: int
    name: str
    slots: int
    paused: bool = False
    running: int = 0
    ready: dict[int, deque[Job]] = field(default_factory=dict)
    held: int = 0
    reserved: int = 0
    empty: bool = False
    job_s: float = 1.0
    consumers: int = 0
    low: int = 1
    least: int = 0
    most: int = 0
    scaled_at: datetime | None = None
    reason: str = ""
    limits: tuple[object, ...] = ()
    turn: Turn | None = None
    cursor: Cursor = field(default_factory=Cursor)
    clock: float = 0.0
    turn_ends: float = 0.0
    _idle: deque[asyncio.Future[None]] = field(default_factory=deque)
    _turn_over: bool = False
    _spreading: bool = False

    @property
    def prefetch(self) -> int:
        """How many jobs to hold beyond the free slots; none of a limited queue, where they would count as running."""
        if self.turn is not None:
            return 0
        return min(PREFETCH_MOST, int(self.slots * PREFETCH_S / max(self.job_s, 1e-6)))

    @property
    def wanted(self) -> int:
        """How many jobs to claim now; none while what is held lasts long enough."""
        if self.paused:
            return 0
        free = max(self.slots - self.running - self.reserved, 0)
        most = free + self.prefetch
        return most - self.held if self.held < free or self.held * 2 < most else 0

    @property
    def waits(self) -> bool:
        """Whether it has slots to fill and found nothing to fill them with."""
        return self.empty and self.wanted > 0

    @property
    def has_room(self) -> bool:
        """Whether a job that comes now could start at once, and before nobody else."""
        taken = self.running + self.held + self.reserved
        return self.empty and not self.paused and self.turn is None and taken < self.slots

    def put(self, jobs: Iterable[Job], *, share: bool = False) -> None:
        """Hand claimed jobs to the slots.

        Args:
            share: they were claimed as the reserved share of low work: behind urgent jobs claimed ahead they would wait forever.
        """
        self.low = max(1, self.prefetch // 2)
        for job in jobs:
            rank = FIRST if share else -job.priority
            line = self.ready.get(rank)
            if line is None:
                line = self.ready[rank] = deque()
                self.ready = dict(sorted(self.ready.items()))
            line.append(job)
            self.held += 1
        if not self._turn_over:
            self.turn_ends = time.monotonic() + TURN_S
            self._spread()

    def take(self) -> Job | None:
        """The next job to start; None if there is none, or it is everybody else's turn on the event loop."""
        if self._turn_over:
            return None
        if self.clock >= self.turn_ends and self.held:
            self._turn_over = True
            asyncio.get_running_loop().call_soon(self._next_turn)
            return None
        for line in self.ready.values():
            if line:
                self.held -= 1
                return line.popleft()
        return None

    def take_all(self) -> list[Job]:
        """Everything that has not started, to be given back."""
        jobs = list(self.waiting())
        self.ready.clear()
        self.held = 0
        return jobs

    def withdraw(self, ids: Container[int]) -> list[Job]:
        """Take these out of what has not started."""
        gone = [job for job in self.waiting() if job.id in ids]
        for line in self.ready.values():
            for job in [job for job in line if job.id in ids]:
                line.remove(job)
        self.held -= len(gone)
        return gone

    def waiting(self) -> Iterator[Job]:
        """Everything that has not started."""
        return (job for line in self.ready.values() for job in line)

    async def wait(self) -> None:
        """Wait until a job may be there."""
        if self.held and not self._turn_over:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        await waiter

    def ended(self, seconds: float, now: float) -> None:
        """Remember how long a job took; short spells count more than one slow outlier.

        Args:
            now: `time.monotonic()`.
        """
        self.clock = now
        self.job_s += LEARNING * (min(seconds, 10 * self.job_s + 0.001) - self.job_s)

    def dismiss(self) -> None:
        """Wake every waiting slot, so that it sees it is no longer needed."""
        self._wake(len(self._idle))

    def _next_turn(self) -> None:
        self._turn_over = False
        self.turn_ends = time.monotonic() + TURN_S
        self._spread()

    def _spread(self, count: int = 1) -> None:
        """Wake more and more slots while those before them wait for something: one alone may get through jobs that never wait."""
        self._wake(min(count, self.held))
        if self.held > count and self._idle and not self._spreading:
            self._spreading = True
            asyncio.get_running_loop().call_soon(self._spread_on, 2 * count)

    def _spread_on(self, count: int) -> None:
        self._spreading = False
        if not self._turn_over:
            self._spread(count)

    def _wake(self, count: int) -> None:
        while count > 0 and self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1
