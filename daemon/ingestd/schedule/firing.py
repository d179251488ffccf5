"""One pass over what is due: read it, plan it, record and enqueue it in one statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import asyncpg

from ingestd.events import Bus, Notice, SlotFired, SlotMissed
from ingestd.schedule.dependencies import (
    NOT_LOOKED_UP,
    Dependency,
    Question,
    Successes,
    Verdict,
    ask,
    judge,
    looked_at_later,
    questions,
    read_dependencies,
)
from ingestd.schedule.rules import Rule, parse_rule
from ingestd.schedule.slots import Plan, PlannedSlot, Policy, plan, share
from ingestd.schedule.store import firing as store
from ingestd.schedule.store.firing import RecordedSlot

SCHEDULES_A_PASS = 1000
# About 50 ms of arithmetic: a pass does not keep the event loop longer, whatever gap it has to go through.
SLOTS_A_PASS = 5000
PUT_OFF = timedelta(minutes=5)
_MOST_RULES = 20_000


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did.

    Args:
        recorded: slots that are rows since.
        more: the pass ended at its limit; another one is due at once.
        problems: names of schedules whose rule cannot be computed, and why.
    """

    recorded: Sequence[RecordedSlot]
    more: bool
    problems: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class _Planned:
    """A schedule that is due, and what is to be recorded of it."""

    name: str
    turn: int
    plan: Plan
    jitter: timedelta
    dependencies: tuple[Dependency, ...]

    @property
    def questions(self) -> set[Question]:
        return {question for slot in self.plan.slots if slot.runs for question in questions(self.dependencies, slot.due_at)}

    def decide(self, slots: Iterable[PlannedSlot]) -> _Planned:
        return replace(self, plan=replace(self.plan, slots=tuple(slots)))


class Firer:
    """Fires what is due, remembering parsed rules and months known to have a partition.

    Args:
        successes: asked about what schedules depend on; without it a slot that depends on something is recorded as waiting, and
            whoever can ask decides about it next.
    """

    def __init__(self, successes: Successes | None = None) -> None:
        self._successes = successes
        self._rules: dict[tuple[Any, ...], Rule] = {}
        self._months: set[tuple[int, int]] = set()

    async def fire(self, conn: asyncpg.Connection, names: Sequence[str] | None = None) -> Pass:
        """Fire the slots that are due by the database's clock, of these schedules or of all.

        Any number of nodes may do this at once: each slot is recorded once.
        """
        return await self._pass(conn, names, None)

    async def fire_all(self, conn: asyncpg.Connection, names: Sequence[str] | None = None) -> list[RecordedSlot]:
        """Fire until nothing is due that can be fired now."""
        return await self._passes(conn, names, None)

    async def write_off(self, conn: asyncpg.Connection, names: Sequence[str], reason: str) -> list[RecordedSlot]:
        """Record everything of these schedules that is due as missed."""
        return await self._passes(conn, names, reason)

    async def _passes(self, conn: asyncpg.Connection, names: Sequence[str] | None, written_off: str | None) -> list[RecordedSlot]:
        recorded: list[RecordedSlot] = []
        while True:
            done = await self._pass(conn, names, written_off)
            recorded += done.recorded
            if not done.more:
                return recorded

    async def _pass(self, conn: asyncpg.Connection, names: Sequence[str] | None, written_off: str | None) -> Pass:
        rows = await store.due(conn, SCHEDULES_A_PASS, names)
        planned: list[_Planned] = []
        problems: list[tuple[str, str]] = []
        looked_at = 0
        for row in rows:
            if looked_at >= SLOTS_A_PASS:
                break
            try:
                made, dependencies = self._plan(row), read_dependencies(row["after"])
            except ValueError as error:
                problems.append((row["name"], str(error)))
                await store.put_off(conn, row["name"], row["turn"], str(error), PUT_OFF)
                continue
            looked_at += made.looked_at
            planned.append(_Planned(row["name"], row["turn"], made, row["jitter"], dependencies))
        if written_off is not None:
            planned = [one.decide(_miss(one.plan, written_off)) for one in planned]
            recorded = await self._fire(conn, planned)
        else:
            # First those that depend on nothing: they wait for nobody's past to be looked up.
            recorded = await self._fire(conn, _judged([one for one in planned if not one.dependencies], None))
            dependent = [one for one in planned if one.dependencies]
            try:
                recorded += await self._fire(conn, _judged(dependent, await self._look_up(conn, dependent)))
            except Exception:
                if not recorded:
                    raise
                # What has been recorded is told first; the next pass, at once, meets the same trouble or none.
                return Pass(recorded, True, problems)
        finished = len(planned) + len(problems) == len(rows) < SCHEDULES_A_PASS
        behind = any(one.plan.next_due_at is not None and one.plan.next_due_at <= rows[0]["now"] for one in planned)
        # Nothing recorded in spite of plans: another node holds these schedules. Do not spin on them.
        return Pass(recorded, bool(recorded) and (behind or not finished), problems)

    def _plan(self, row: asyncpg.Record) -> Plan:
        key = (row["rule"], row["timezone"], row["starts_at"], row["ends_at"])
        rule = self._rules.get(key)
        if rule is None:
            if len(self._rules) >= _MOST_RULES:
                self._rules.clear()
            rule = self._rules[key] = parse_rule(*key)
        policy = Policy(row["catch_up"], row["max_catch_up"], row["start_within"])
        return plan(rule, row["accounted_to"], row["now"], policy, SLOTS_A_PASS)

    async def _look_up(self, conn: asyncpg.Connection, dependent: Sequence[_Planned]) -> Set[Question] | None:
        """What has succeeded of all that these slots depend on, asked at once; None if that cannot be told."""
        asked = {question for one in dependent for question in one.questions}
        if self._successes is None:
            return None
        try:
            return await ask(conn, self._successes, asked)
        except NOT_LOOKED_UP:
            return None  # the slots wait, and whoever looks at those next says why

    async def _fire(self, conn: asyncpg.Connection, planned: Sequence[_Planned]) -> list[RecordedSlot]:
        if not planned:
            return []
        for one in planned:
            for slot in one.plan.slots:
                await self._need_partition(conn, slot.due_at)
        try:
            return await store.fire(conn, [(one.name, one.turn, one.plan) for one in planned])
        except asyncpg.CheckViolationError:
            self._months.clear()  # somebody dropped one: the next pass makes it again
            raise

    async def _need_partition(self, conn: asyncpg.Connection, due_at: datetime) -> None:
        month = (due_at.year, due_at.month)
        if month not in self._months:
            await store.make_partition(conn, due_at)
            self._months.add(month)


def _judged(planned: Iterable[_Planned], succeeded: Set[Question] | None) -> list[_Planned]:
    """The plans, knowing what became of what each slot depends on, and how long its job waits."""
    return [one.decide(_judge(one, succeeded)) for one in planned]


def _judge(one: _Planned, succeeded: Set[Question] | None) -> Iterable[PlannedSlot]:
    for slot in one.plan.slots:
        if not slot.runs:
            yield slot
            continue
        if not one.dependencies:
            verdict = Verdict("run")
        elif succeeded is None:
            verdict = looked_at_later(one.dependencies)
        else:
            verdict = judge(one.dependencies, slot.due_at, succeeded)
        match verdict.decision:
            case "run":
                reason = "; ".join(part for part in (slot.reason, verdict.reason) if part) or None
                yield replace(slot, reason=reason, delay=share(one.name, slot.due_at, one.jitter))
            case "skip":
                yield replace(slot, state="skipped", reason=verdict.reason)
            case "wait":
                yield replace(slot, state="waiting", reason=verdict.reason)


def _miss(made: Plan, reason: str) -> Iterable[PlannedSlot]:
    for slot in made.slots:
        yield replace(slot, state="missed", reason=reason if slot.state != "missed" else slot.reason, in_line=False)


def announce(
    bus: Bus,
    recorded: Sequence[RecordedSlot],
    problems: Sequence[tuple[str, str]] = (),
    downtimes: Sequence[tuple[datetime, datetime]] = (),
) -> None:
    """Tell what was recorded, after its commit; missed slots in a row are told once.

    Args:
        downtimes: beginnings and ends; slots missed in one are told with it.
    """
    for slot in recorded:
        if slot.job_id is not None:
            bus.emit(SlotFired(slot.schedule, slot.due_at, slot.job_id))
    missed = sorted(
        (slot for slot in recorded if slot.state == "missed" and not any(began < slot.due_at <= ended for began, ended in downtimes)),
        key=lambda slot: (slot.schedule, slot.due_at),
    )
    for (schedule, reason), run in groupby(missed, key=lambda slot: (slot.schedule, slot.reason)):
        members = list(run)
        count = sum(slot.slots for slot in members)
        several = f"{count} slots up to {members[-1].due_at.isoformat()}: " if count > 1 else ""
        bus.emit(SlotMissed(schedule, members[0].first_due_at or members[0].due_at, several + (reason or "missed")))
    for schedule, problem in problems:
        bus.emit(Notice(f"schedule {schedule} cannot be computed: {problem}", "error", {"schedule": schedule}))
