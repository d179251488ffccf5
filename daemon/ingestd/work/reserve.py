"""Slots kept for what this process is just enqueueing: such a job is born claimed, and needs no second statement to start."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from ingestd.jobs.model import Job, NewJob
from ingestd.jobs.registry import Registry
from ingestd.jobs.store.claim import Claimant
from ingestd.work.claimer import Claimer
from ingestd.work.lane import Lane
from ingestd.work.node import NodeIdentity


class Reservations:
    """The slots of this node that are kept for jobs on their way into the queue.

    Args:
        claimer: whose lanes these are.
        registry: what runs here.
        node: who claims.
        give_back: takes a job that can no longer start here.
    """

    def __init__(self, claimer: Claimer, registry: Registry, node: NodeIdentity, give_back: Callable[[Job], None]) -> None:
        self.claimer = claimer
        self.give_back = give_back
        self._registry = registry
        self._node = node

    def reserve(self, job: NewJob) -> Reserved | None:
        """Keep a slot for a job that is about to be enqueued; None if it has to wait its turn like any other.

        Nothing may wait before it: only a queue that was found empty, has no limits and has a slot free lets a job in this way.
        """
        spec = self._registry.get(job.kind)
        if spec is None or spec.kind != job.kind or not _due_now(job) or job.store not in (None, self._node.store):
            return None
        lane = self.claimer.lane_with_room(job.queue or spec.queue)
        if lane is None:
            return None
        who = Claimant(uuid.uuid4(), self._node.id, [job.kind], self._node.store)
        lane.reserved += 1
        self.claimer.asked(who.token)
        return Reserved(self, lane, who)


class Reserved:
    """One slot kept for one job, until it is filled or the answer is lost."""

    def __init__(self, reservations: Reservations, lane: Lane, who: Claimant) -> None:
        self.who = who
        self.queue_id = lane.id
        self.queue = lane.name
        self._lane = lane
        self._reservations = reservations

    def fill(self, job: Job | None) -> None:
        """Start the job that was born with the claim; None: it was not, for its queue may not be claimed from just now."""
        self._free()
        if job is not None and (self._lane.paused or self._reservations.claimer.is_draining()):
            # Since the slot was kept: what waited in the lane has been given back.
            self._reservations.give_back(job)
        elif job is not None:
            self._lane.put([job])
        self._reservations.claimer.answered(self.who.token)

    def lose(self) -> None:
        """Nobody knows whether the job was born: what the claim holds is given back before anything else is claimed."""
        self._free()
        self._reservations.claimer.doubt(self.who.token)

    def _free(self) -> None:
        self._lane.reserved -= 1


def _due_now(job: NewJob) -> bool:
    return job.run_at is None and job.key is None and not job.parked
