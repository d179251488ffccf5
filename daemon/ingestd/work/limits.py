"""When a node asks a limited queue for work again: at the next permit of its rate, or soon after a job has ended."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ingestd.jobs.store.limits import Taken

# A job that ended frees its place when its ack has been written, some milliseconds later.
ACK_S = 0.012
FIRST_S = 0.02
LONGEST_S = 1.0
SHORTEST_S = 0.002
BUSY_S = 0.003


@dataclass(slots=True)
class Turn:
    """One node's place in the line for a limited queue.

    Args:
        at: monotonic seconds before which it is no use to ask.
        by_rate: it waits for a permit, which nothing here can bring about sooner.
        running: jobs of the queue that ran here when it was refused.
    """

    at: float = 0.0
    by_rate: bool = False
    running: int = 0
    _pause_s: float = FIRST_S

    def due(self, now: float, running: int) -> bool:
        """Whether to ask now.

        Args:
            now: monotonic seconds.
            running: jobs of the queue that run here now; fewer than at the refusal means that places become free.
        """
        if running < self.running and not self.by_rate:
            self.at, self._pause_s = min(self.at, now + ACK_S), FIRST_S
        self.running = running
        return now >= self.at

    def note(self, now: float, taken: Taken, wanted: int, running: int) -> None:
        """Remember what a claim came to.

        Args:
            now: monotonic seconds.
            taken: what it took, and what the limits had left before.
            wanted: jobs there were slots for.
            running: jobs of the queue that ran here before it.
        """
        self.running = running + len(taken.jobs)
        self.by_rate = False
        if taken.busy:
            # Others hold the lock for about a millisecond; not all are to come back at the same time.
            self.at = now + BUSY_S * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
        elif taken.room is None:
            self.at = now + LONGEST_S
        elif taken.found_less_than(wanted) or len(taken.jobs) == wanted:
            # Nothing more is there, or no slot is left for it: the limits have held nothing back.
            self.at, self._pause_s = 0.0, FIRST_S
        elif taken.room.wait_s > 0:
            self.at, self.by_rate = now + max(taken.room.wait_s, SHORTEST_S), True
        elif taken.jobs:
            # At the limit now; whether a place or a permit is missing, the next look tells.
            self.at, self._pause_s = now, FIRST_S
        else:
            self.at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_S)
