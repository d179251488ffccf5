"""One pass over what is due: read it, plan it, record and enqueue it in one statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby

import asyncpg

from ingestd.events import Bus, Notice, SlotFired, SlotMissed
from ingestd.schedule.rules import Rule, parse_rule
from ingestd.schedule.slots import Plan, PlannedSlot, Policy, plan
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


class Firer:
    """Fires what is due, remembering parsed rules and months known to have a partition."""

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str], Rule] = {}
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
        plans: list[tuple[str, int, Plan]] = []
        problems: list[tuple[str, str]] = []
        looked_at = 0
        for row in rows:
            if looked_at >= SLOTS_A_PASS:
                break
            try:
                made = self._plan(row)
            except ValueError as error:
                problems.append((row["name"], str(error)))
                await store.put_off(conn, row["name"], row["turn"], str(error), PUT_OFF)
                continue
            looked_at += made.looked_at
            if written_off is not None:
                made = replace(made, slots=tuple(_miss(made, written_off)))
            plans.append((row["name"], row["turn"], made))
        recorded = await self._fire(conn, plans) if plans else []
        finished = len(plans) + len(problems) == len(rows) < SCHEDULES_A_PASS
        behind = any(made.next_due_at is not None and made.next_due_at <= rows[0]["now"] for _, _, made in plans)
        # Nothing recorded in spite of plans: another node holds these schedules. Do not spin on them.
        return Pass(recorded, bool(recorded) and (behind or not finished), problems)

    def _plan(self, row: asyncpg.Record) -> Plan:
        key = (row["rule"], row["timezone"])
        rule = self._rules.get(key)
        if rule is None:
            if len(self._rules) >= _MOST_RULES:
                self._rules.clear()
            rule = self._rules[key] = parse_rule(*key)
        policy = Policy(row["catch_up"], row["max_catch_up"], row["start_within"])
        return plan(rule, row["accounted_to"], row["now"], policy, SLOTS_A_PASS)

    async def _fire(self, conn: asyncpg.Connection, plans: Sequence[tuple[str, int, Plan]]) -> list[RecordedSlot]:
        for _, _, made in plans:
            for slot in made.slots:
                await self._need_partition(conn, slot.due_at)
        try:
            return await store.fire(conn, plans)
        except asyncpg.CheckViolationError:
            self._months.clear()  # somebody dropped one: the next pass makes it again
            raise

    async def _need_partition(self, conn: asyncpg.Connection, due_at: datetime) -> None:
        month = (due_at.year, due_at.month)
        if month not in self._months:
            await store.make_partition(conn, due_at)
            self._months.add(month)


def _miss(made: Plan, reason: str) -> Iterable[PlannedSlot]:
    for slot in made.slots:
        yield replace(slot, state="missed", reason=reason if slot.state != "missed" else slot.reason, in_line=False)


def announce(bus: Bus, recorded: Sequence[RecordedSlot], problems: Sequence[tuple[str, str]] = ()) -> None:
    """Tell what was recorded, after its commit; missed slots in a row are told once."""
    for slot in recorded:
        if slot.job_id is not None:
            bus.emit(SlotFired(slot.schedule, slot.due_at, slot.job_id))
    missed = sorted((slot for slot in recorded if slot.state == "missed"), key=lambda slot: (slot.schedule, slot.due_at))
    for (schedule, reason), run in groupby(missed, key=lambda slot: (slot.schedule, slot.reason)):
        members = list(run)
        count = sum(slot.slots for slot in members)
        several = f"{count} slots up to {members[-1].due_at.isoformat()}: " if count > 1 else ""
        bus.emit(SlotMissed(schedule, members[0].first_due_at or members[0].due_at, several + (reason or "missed")))
    for schedule, problem in problems:
        bus.emit(Notice(f"schedule {schedule} cannot be computed: {problem}", "error", {"schedule": schedule}))
