"""Slots that wait for a success: looked at again in each pass of the scheduler, on every node, and ended once."""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import datetime, timedelta

import asyncpg

from ingestd.schedule.dependencies import Dependency, Question, Successes, ask, judge, questions, read_dependencies, waited_for
from ingestd.schedule.slots import PROMPT, expired, lateness, share
from ingestd.schedule.store import waiting as store
from ingestd.schedule.store.firing import RecordedSlot
from ingestd.schedule.store.waiting import Settlement

# No more end in one statement than fire in one.
SETTLED_AT_ONCE = 1000


async def look_again(conn: asyncpg.Connection, successes: Successes) -> tuple[list[RecordedSlot], bool]:
    """End the slots whose wait is over; asks once for all of them.

    Returns:
        What was recorded, and whether slots go on waiting.

    Raises:
        TimeoutError: what they wait for could not be looked up in time.
        asyncpg.PostgresError: it could not be looked up.
    """
    rows = await store.waiting(conn)
    if not rows:
        return [], False
    dependencies = [read_dependencies(row["after"] or ()) for row in rows]
    asked = {question for row, needed in zip(rows, dependencies, strict=True) for question in questions(needed, row["due_at"])}
    succeeded = await ask(conn, successes, asked)
    found = [_settle(row, needed, succeeded) for row, needed in zip(rows, dependencies, strict=True)]
    ended = [one for one in found if one is not None]
    recorded: list[RecordedSlot] = []
    for begin in range(0, len(ended), SETTLED_AT_ONCE):
        recorded += await store.settle(conn, ended[begin : begin + SETTLED_AT_ONCE])
    return recorded, len(recorded) < len(rows)


def _settle(row: asyncpg.Record, dependencies: Sequence[Dependency], succeeded: Set[Question]) -> Settlement | None:
    due_at, now = row["due_at"], row["now"]
    end = _ending(row) or _decided(due_at, now, dependencies, succeeded)
    if end is None:
        return None
    return Settlement(row["schedule"], due_at, row["turn"], *end, delay=share(row["schedule"], due_at, row["jitter"] or timedelta()))


def _ending(row: asyncpg.Record) -> tuple[str, str | None] | None:
    """What ends a wait whatever has succeeded."""
    if not row["in_service"]:
        return "missed", "its schedule was removed before it could run"
    if not row["enabled"]:
        return "missed", "its schedule was disabled before it could run"
    if row["paused"] is not None:
        return "skipped", row["paused"]
    if row["newer"] is not None:
        return "skipped", f"gave way to the slot of {row['newer'].isoformat()}"
    too_late = expired(row["due_at"], row["now"], row["start_within"])
    return ("missed", f"{too_late}: {waited_for(read_dependencies(row['after']))}") if too_late else None


def _decided(
    due_at: datetime, now: datetime, dependencies: Sequence[Dependency], succeeded: Set[Question]
) -> tuple[str, str | None] | None:
    decision, reason = judge(dependencies, due_at, succeeded)
    if decision == "wait":
        return None
    if decision == "skip":
        return "skipped", reason
    if now - due_at <= PROMPT:
        return "fired", reason
    return "late", "; ".join(part for part in (f"{lateness(due_at, now)}: {waited_for(dependencies)}", reason) if part)
