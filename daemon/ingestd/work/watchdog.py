"""Looks after running jobs: tells of slow ones, and ends stuck ones.

Stuck is a job that is past its deadline, or has shown no progress for `stuck_after`. It is told to end; a process is killed if it
does not, anything else keeps its claim until it ends and gives up its slot. A job that reports progress is never stuck. Slow is a
job that has run three times as long as nearly all of its kind: that is told, once, with where it is.

Weakness: it runs on the main loop, so a job that blocks the loop is seen by the heartbeat's thread instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import asyncpg

from ingestd.events import Bus, JobSlow, JobStuck
from ingestd.facts import Check, RoomFacts
from ingestd.jobs.registry import HandlerSpec, Registry
from ingestd.jobs.store import statistics
from ingestd.postgres.pool import Database
from ingestd.work import runner
from ingestd.work.running import Running

EVERY_S = 1.0
# What ends a job at its deadline gets that long to do so.
DEADLINE_GRACE_S = 5.0
SLOW_TIMES = 3.0
# Below this a pause of the machine is more likely than a slow job.
SLOW_LEAST_S = 1.0
LEARNED_FROM = timedelta(days=1)
LEAST_RUNS = 20
LEARN_AGAIN_S = 60.0
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be thought of a running job.

    Args:
        reason: a few words about a stuck one.
    """

    state: Literal["fine", "slow", "stuck"]
    reason: str = ""


FINE = Verdict("fine")


def judge(ran_s: float, silent_s: float, *, deadline_s: float | None, stuck_after_s: float, usual_s: float | None) -> Verdict:
    """Judge a running job; all in seconds.

    Args:
        ran_s: since it began.
        silent_s: since it last reported progress, or began.
        deadline_s: how long it may run; None: for ever.
        stuck_after_s: how long it may be silent.
        usual_s: what nearly all of its kind stay under; None: not known.
    """
    if deadline_s is not None and ran_s > deadline_s + DEADLINE_GRACE_S and silent_s > DEADLINE_GRACE_S:
        return Verdict("stuck", f"it did not end at its deadline of {_words(deadline_s)}")
    if silent_s > stuck_after_s:
        return Verdict("stuck", f"no progress for {_words(silent_s)}")
    if usual_s is not None and ran_s > max(SLOW_TIMES * usual_s, SLOW_LEAST_S):
        return Verdict("slow")
    return FINE


def usual_s(counts: Mapping[int, int]) -> float | None:
    """The time that 99 of 100 runs stay under, in seconds; None with too few runs, or where the longest are beyond measure.

    Args:
        counts: runs by bucket; bucket k are those of at most 2^k ms.
    """
    runs = sum(counts.values())
    if runs < LEAST_RUNS:
        return None
    seen = 0
    for bucket, count in sorted(counts.items()):
        seen += count
        if seen >= 0.99 * runs:
            return float(2**bucket) / 1000 if bucket < statistics.LAST_BUCKET else None
    return None


class Watchdog:
    """Watches the jobs of one worker.

    Args:
        db: where durations were recorded.
        bus: where slow and stuck jobs are told.
        registry: deadlines of the kinds.
        running: the jobs that run now.
        interrupt: tells a job to end, with one of `runner.Interrupted`; False if it was told before.
        stuck_after_s: for kinds that do not say otherwise, in seconds.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        registry: Registry,
        running: Callable[[], Mapping[int, Running]],
        interrupt: Callable[[int, str], bool],
        stuck_after_s: float = 3600.0,
    ) -> None:
        self._db = db
        self._bus = bus
        self._registry = registry
        self._running = running
        self._interrupt = interrupt
        self._stuck_after_s = stuck_after_s
        self._usual: dict[str, float | None] = {}
        self._learned_at: dict[str, float] = {}
        # By claim, not by id: the same job may run here again.
        self._told: dict[object, str] = {}

    async def poll(self) -> float:
        """One look at all running jobs; returns the seconds until the next."""
        jobs = list(self._running().values())
        now = time.monotonic()
        long = {each.job.kind for each in jobs if now - each.began > SLOW_LEAST_S}
        await self._learn({kind for kind in long if now - self._learned_at.get(kind, -LEARN_AGAIN_S) >= LEARN_AGAIN_S})
        self._told = {claim: told for claim, told in self._told.items() if claim in {self._key(each) for each in jobs}}
        for each in jobs:
            await self._look_at(each, time.monotonic())
        return EVERY_S

    async def checks(self, _conn: asyncpg.Connection) -> list[Check]:
        """Whether every job of this node gets on."""
        now = time.monotonic()
        shown = [
            f"job {each.job.id} {each.job.kind} {self._told[self._key(each)]} after {now - each.began:.0f} s"
            for each in self._running().values()
            if self._key(each) in self._told
        ]
        more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        hint = "the log has the stack of each; `ingestd jobs show ID`, `ingestd jobs cancel ID`" if shown else ""
        return [Check("slow_jobs", "degraded" if shown else "healthy", ", ".join(shown[:SHOWN]) + more or "none", "none", hint=hint)]

    def facts(self) -> RoomFacts:
        """The watchdog's check."""
        return RoomFacts(checks=self.checks)

    async def _look_at(self, each: Running, now: float) -> None:
        if each.ctx.interrupted or each.ctx.acked is not None:
            return
        spec = self._registry.get(each.job.kind)
        verdict = judge(
            now - each.began,
            now - each.ctx.shown_at,
            deadline_s=_seconds(each.job.timeout or (spec.timeout if spec else None)),
            stuck_after_s=self._patience_s(spec),
            usual_s=self._usual.get(each.job.kind),
        )
        told = self._told.get(self._key(each))
        if verdict.state == "stuck":
            self._told[self._key(each)] = "stuck"
            stack = await each.stack()
            # Asking a process takes a moment, in which the job may have ended, and begun again here.
            if self._running().get(each.job.id) is each and self._interrupt(each.job.id, runner.Interrupted.STUCK):
                self._bus.emit(
                    JobStuck(each.job.id, each.job.kind, round(now - each.began, 1), verdict.reason, stack, each.job.correlation_id)
                )
        elif verdict.state == "slow" and told is None:
            self._told[self._key(each)] = "slow"
            usual = self._usual[each.job.kind] or 0.0
            stack = await each.stack()
            self._bus.emit(JobSlow(each.job.id, each.job.kind, round(now - each.began, 1), usual, stack, each.job.correlation_id))

    def _patience_s(self, spec: HandlerSpec | None) -> float:
        own = _seconds(spec.stuck_after) if spec else None
        return self._stuck_after_s if own is None else own

    async def _learn(self, kinds: Collection[str]) -> None:
        if not kinds:
            return
        async with self._db.services() as conn:
            counts = await statistics.durations(conn, kinds, LEARNED_FROM)
        now = time.monotonic()
        for kind in kinds:
            self._usual[kind] = usual_s(counts.get(kind, {}))
            self._learned_at[kind] = now

    @staticmethod
    def _key(each: Running) -> object:
        return each.job.id, each.job.claim


def _seconds(value: timedelta | None) -> float | None:
    return None if value is None else value.total_seconds()


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
