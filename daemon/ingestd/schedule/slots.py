"""Which of the slots that have come due run, and which are missed: pure, by the clock it is given.

A slot found within `PROMPT` of its time simply runs: a loop that lags is not downtime. Older ones were nobody's while
nothing ran, and the schedule's `catch_up` says what becomes of them. Whatever its age, a slot found later than
`start_within` is missed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import groupby, islice
from typing import Literal

from ingestd.schedule.rules import Rule
from ingestd.schedule.settings import CatchUp
from ingestd.settings import format_duration

# Two rests of the loop that fires slots.
PROMPT = timedelta(seconds=30)
# How many missed slots of one gap become rows of their own; the ones before share one.
KEEP_SINGLE = 100


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of slots that are found late.

    Args:
        start_within: missed if found later than that; None: never.
    """

    catch_up: CatchUp = "latest"
    max_catch_up: int = 100
    start_within: timedelta | None = None


@dataclass(frozen=True, slots=True)
class PlannedSlot:
    """What is to be recorded about one slot, or about several missed ones in a row.

    Args:
        due_at: its time; the last one's of several.
        first_due_at: the first one's of several.
        slots: how many.
        triggered_by: `schedule`, or `catch_up` for one that was found after downtime.
        in_line: it waits for its turn behind the slots before it, whatever `overlap` says of slots on time.
        delay: its job waits so long after the slot's time.
    """

    due_at: datetime
    state: Literal["fired", "late", "missed", "skipped", "waiting"]
    reason: str | None = None
    triggered_by: Literal["schedule", "catch_up"] = "schedule"
    first_due_at: datetime | None = None
    slots: int = 1
    in_line: bool = False
    delay: timedelta = timedelta()

    @property
    def runs(self) -> bool:
        """Whether it is to have a job."""
        return self.state in ("fired", "late")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to record, and where that leaves the schedule.

    Args:
        accounted_to: every slot up to here is a row.
        next_due_at: the first slot behind; None if there is none.
        looked_at: slots the plan went through.
    """

    slots: tuple[PlannedSlot, ...]
    accounted_to: datetime
    next_due_at: datetime | None
    looked_at: int


def plan(rule: Rule, after: datetime, now: datetime, policy: Policy, limit: int = 5000) -> Plan:
    """Decide about the slots in (after, now].

    Args:
        after: up to where slots are accounted for.
        now: the database's clock.
        limit: slots to look at; a longer gap is gone through in several plans. Well above max_catch_up.
    """
    ahead = rule.after(after)
    due: list[datetime] = []
    following: datetime | None = None
    for slot in islice(ahead, limit + 1):
        if slot > now or len(due) == limit:
            following = slot
            break
        due.append(slot)
    if following is not None and following <= now:
        return _plan_part(due, following, after, now, policy)
    decided = _decide(due, now, policy)
    return Plan(tuple(_group(decided)), due[-1] if due else after, following, len(due))


def _plan_part(due: list[datetime], following: datetime, after: datetime, now: datetime, policy: Policy) -> Plan:
    """The beginning of a gap too long for one plan: what is surely not among the newest is missed, the rest comes again."""
    spare = policy.max_catch_up if policy.catch_up == "all" else 0
    old = [slot for slot in due if now - slot > PROMPT]
    sure = old[: max(len(old) - spare, 0)]
    if not sure:
        raise ValueError("a plan must look at more slots than it may hold back")
    reason = _downtime(policy)
    missed = [PlannedSlot(slot, "missed", expired(slot, now, policy.start_within) or reason) for slot in sure]
    return Plan(tuple(_group(missed)), sure[-1], [*due, following][len(sure)], len(due))


def _decide(due: list[datetime], now: datetime, policy: Policy) -> list[PlannedSlot]:
    alive = [slot for slot in due if not expired(slot, now, policy.start_within)]
    prompt = {slot for slot in alive if now - slot <= PROMPT}
    old = [slot for slot in alive if slot not in prompt]
    caught_up: set[datetime] = set()
    if policy.catch_up == "all":
        caught_up = set(old[-policy.max_catch_up :])
    elif policy.catch_up == "latest" and not prompt:
        caught_up = set(old[-1:])
    decided = []
    for slot in due:
        if slot in prompt:
            decided.append(PlannedSlot(slot, "fired"))
        elif slot in caught_up:
            reason = f"{lateness(slot, now)}: nothing was running when it came due"
            decided.append(PlannedSlot(slot, "late", reason, "catch_up", in_line=policy.catch_up == "all"))
        else:
            decided.append(PlannedSlot(slot, "missed", expired(slot, now, policy.start_within) or _downtime(policy)))
    return decided


def share(name: str, due_at: datetime, jitter: timedelta) -> timedelta:
    """How much of a schedule's jitter falls to one slot: the same on every node, spread evenly over schedules and slots."""
    if not jitter:
        return timedelta()
    drawn = blake2b(f"{name} {due_at.astimezone(UTC).isoformat()}".encode(), digest_size=8).digest()
    return jitter * (int.from_bytes(drawn) / 2**64)


def lateness(slot: datetime, now: datetime) -> str:
    """How late a slot is, in words."""
    return f"{format_duration(timedelta(seconds=round((now - slot).total_seconds())))} late"


def expired(slot: datetime, now: datetime, start_within: timedelta | None) -> str | None:
    """Why a slot found now does not run any more, if it is too late for it."""
    if start_within is None or now - slot <= start_within:
        return None
    return f"could not start within {format_duration(start_within)}"


def _downtime(policy: Policy) -> str:
    if policy.catch_up == "latest":
        return "nothing was running when it came due; only the newest slot is caught up"
    if policy.catch_up == "all":
        return f"nothing was running when it came due; only the newest {policy.max_catch_up} are caught up"
    return "nothing was running when it came due"


def _group(decided: list[PlannedSlot]) -> list[PlannedSlot]:
    """Join long runs of missed slots, so that a month of downtime is not a million rows."""
    grouped: list[PlannedSlot] = []
    for key, run in groupby(decided, key=lambda slot: (slot.state, slot.reason)):
        members = list(run)
        if key[0] == "missed" and len(members) > KEEP_SINGLE + 1:
            early, members = members[:-KEEP_SINGLE], members[-KEEP_SINGLE:]
            grouped.append(PlannedSlot(early[-1].due_at, "missed", key[1], "schedule", early[0].due_at, len(early)))
        grouped += members
    return grouped
