"""Where the next claim of a queue begins: behind what was taken already, one position per priority.

A SKIP LOCKED claim that starts at the front walks over every index entry that vacuum cannot remove yet: under one transaction held
open it slows down quadratically. Each node therefore remembers, in memory only, how far it has come. A bounded sweep from the very
front finds what lies behind a cursor, and wake-ups carry the position of what was enqueued with an old `run_at`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ingestd.jobs.model import Job

START = datetime(1970, 1, 1, tzinfo=UTC)
# The last second by the database's clock, wherever that is: a claim never begins later than there.
JUST_NOW = (datetime(9000, 1, 1, tzinfo=UTC), 0)
# high, normal and low: a busy node is not told of what is enqueued, and hears of another priority from the next sweep only.
NAMED_RANKS = (-10, 0, 10)
# Each eighth claim begins with the least urgent priority, so that low work gets its share of a busy queue.
LOW_FIRST_EVERY = 8
SWEEP_EVERY_S = 1.0
SWEEP_COST_FACTOR = 20

Position = tuple[datetime, int]


@dataclass(slots=True)
class Cursor:
    """The positions of one queue, by rank.

    Args:
        positions: rank -> (run_at, id) of the last job taken there.
        claims: how many claims have begun here, for the reserved share.
    """

    positions: dict[int, Position] = field(default_factory=dict)
    claims: int = 0

    def bounds(self) -> tuple[list[int], list[datetime], list[int]]:
        """Ranks in the order they are to be looked at, and the position each starts behind."""
        self.claims += 1
        ranks = sorted({*self.positions, *NAMED_RANKS}, reverse=self.low_first)
        places = [self.positions.get(rank, JUST_NOW) for rank in ranks]
        return ranks, [run_at for run_at, _ in places], [job_id for _, job_id in places]

    @property
    def low_first(self) -> bool:
        """Whether the last claim began with the least urgent priority."""
        return self.claims % LOW_FIRST_EVERY == 0

    def advance(self, jobs: Iterable[Job]) -> None:
        """Remember what was taken."""
        positions = self.positions
        for job in jobs:
            here = (job.run_at, job.id)
            rank = -job.priority
            if rank not in positions or positions[rank] < here:
                positions[rank] = here

    def lower(self, rank: int, run_at: datetime) -> None:
        """Something was enqueued at `run_at`, perhaps long ago by its clock: begin no later than there."""
        here = (run_at, 0)
        if rank not in self.positions or self.positions[rank] > here:
            self.positions[rank] = here

    def know(self, ranks: Iterable[int]) -> None:
        """Look at these ranks as well, from their beginning."""
        for rank in ranks:
            self.positions.setdefault(rank, (START, 0))

    def reset(self) -> None:
        """Begin at the front again: a sweep found so much behind the cursor that more must be there."""
        for rank in self.positions:
            self.positions[rank] = (START, 0)


def sweep_again_in(took_s: float) -> float:
    """Seconds until the next sweep, so that sweeps never take more than a twentieth of the time."""
    return max(SWEEP_EVERY_S, SWEEP_COST_FACTOR * took_s)
