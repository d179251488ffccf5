"""One thing done to every job that a filter matches, in chunks that each commit with a mark of how far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, cast, get_args

import asyncpg

from ingestd.errors import InvalidInput
from ingestd.jobs.filters import FINAL_STATES, GROUPS, OPEN_STATES, JobFilter, filter_of
from ingestd.jobs.model import State
from ingestd.jobs.store import bulk as store
from ingestd.jobs.store import edits, history, reads
from ingestd.jobs.store.bulk import Bound

Action = Literal["cancel", "retry", "again", "edit", "delete", "snooze"]
ACTIONS: tuple[str, ...] = get_args(Action)
KIND = "bulk"
# So many are done in the request itself; more become a job.
AT_ONCE = 500
CHUNK = 500
SAMPLE = 5

WAITING = GROUPS["waiting"]
_ELIGIBLE: Mapping[str, tuple[str, ...]] = {
    "cancel": OPEN_STATES,
    "retry": (State.FAILED, State.CANCELLED, State.RETRYING),
    "again": FINAL_STATES,
    "edit": WAITING,
    "delete": (*WAITING, *FINAL_STATES),
    "snooze": WAITING,
}
# Nobody who says "retry all loads" means those that somebody has cancelled.
_UNSAID: Mapping[str, tuple[str, ...]] = {"retry": (State.FAILED,)}
_DONE_BY = {
    "cancel": "cancelled",
    "retry": "retried",
    "again": "run again",
    "edit": "edited while nobody runs them",
    "delete": "deleted unless they run",
    "snooze": "snoozed while they wait",
}


@dataclass(frozen=True, slots=True)
class Bulk:
    """What is to be done, and to which jobs.

    Args:
        which: its states are among those that the action can change.
        run_at: of retry, again and snooze: not before; None: now.
        changes: of edit, see `edits.edit`.
        force: of cancel: take running jobs from their nodes instead of asking.
        by: who asks, for reasons and new jobs.
        via: through which door.
    """

    action: Action
    which: JobFilter
    run_at: datetime | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False
    by: str = "ingestd"
    via: str = "api"
    correlation_id: str | None = None

    def as_args(self, until: Bound, expected: int) -> dict[str, Any]:
        """The arguments of a `bulk` job."""
        return {
            "action": self.action,
            "filter": self.which.as_json(),
            "run_at": self.run_at and self.run_at.isoformat(),
            "changes": dict(self.changes),
            "force": self.force,
            "by": self.by,
            "via": self.via,
            "last_id": until.last_id,
            "asked_at": until.asked_at.isoformat(),
            "expected": expected,
        }


def bulk_of(args: Mapping[str, Any], correlation_id: str | None) -> tuple[Bulk, Bound]:
    """Read what `as_args` wrote."""
    run_at = datetime.fromisoformat(args["run_at"]).astimezone(UTC) if args.get("run_at") else None
    bulk = Bulk(
        args["action"],
        filter_of(args["filter"]),
        run_at,
        args.get("changes") or {},
        bool(args.get("force")),
        args.get("by", "ingestd"),
        args.get("via", "api"),
        correlation_id,
    )
    return bulk, Bound(int(args["last_id"]), datetime.fromisoformat(args["asked_at"]).astimezone(UTC))


def plan(action: str, which: JobFilter, **how: Any) -> Bulk:
    """A bulk that makes sense, its filter narrowed to the states that the action can change.

    Raises:
        InvalidInput: it does not make sense.
    """
    if action not in ACTIONS:
        raise InvalidInput(f'"{action[:100]}" is not an action; one of: {", ".join(ACTIONS)}', pointer="/action")
    if which.empty:
        raise InvalidInput(f"say which jobs to {action}: the filter is empty", pointer="/filter")
    if action == "edit" and not how.get("changes"):
        raise InvalidInput("say what to change: there are no changes", pointer="/changes")
    if action != "edit" and how.get("changes"):
        raise InvalidInput("only an edit takes changes", pointer="/changes")
    if "args" in (how.get("changes") or {}) and which.kind is None and not which.ids:
        raise InvalidInput("jobs of different kinds take different args: filter by kind", pointer="/filter/kind")
    if how.get("force") and action != "cancel":
        raise InvalidInput("only cancel can be forced", pointer="/force")
    if how.get("run_at") and action not in ("retry", "again", "snooze"):
        raise InvalidInput(f"{action} takes no time", pointer="/run_at")
    if action == "snooze" and not how.get("run_at"):
        raise InvalidInput("say until when to snooze", pointer="/run_at")
    unsaid = _UNSAID.get(action) if not which.states and not which.ids else None
    narrowed = which.within(unsaid or _ELIGIBLE[action])
    if not narrowed.states:
        states = ", ".join(_ELIGIBLE[action])
        raise InvalidInput(f"jobs that are {', '.join(which.states)} cannot be {_DONE_BY[action]}; only {states}", pointer="/filter/state")
    return Bulk(cast("Action", action), narrowed, **how)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a bulk would change.

    Args:
        jobs: how many, exactly.
        states: how many of each state.
        kinds: how many of each kind, the most first.
        sample: the newest of them.
    """

    jobs: int
    states: Mapping[str, int]
    kinds: Mapping[str, int]
    sample: list[dict[str, Any]]


async def look(conn: asyncpg.Connection, bulk: Bulk) -> Preview:
    """What a bulk would change if it were asked for now."""
    states: dict[str, int] = {}
    kinds: dict[str, int] = {}
    for row in await store.count(conn, bulk.which):
        states[row["state"]] = states.get(row["state"], 0) + row["n"]
        kinds[row["kind"]] = kinds.get(row["kind"], 0) + row["n"]
    sample = await reads.list_jobs(conn, bulk.which, SAMPLE) if states else []
    return Preview(sum(states.values()), states, dict(sorted(kinds.items(), key=lambda item: -item[1])), sample)


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a bulk has come.

    Args:
        arm: `open` jobs are gone through first, then the `done` ones; None: through.
        after: the last id looked at.
        left: what could not be changed at the first go, perhaps because somebody was writing it; tried once more.
        asked: running jobs that were asked to stop, part of `changed`.
    """

    arm: Literal["open", "done"] | None = "open"
    after: int = 0
    left: tuple[int, ...] = ()
    changed: int = 0
    skipped: int = 0
    asked: int = 0

    def as_json(self) -> dict[str, Any]:
        """The mark as a JSON value."""
        return {"arm": self.arm, "after": self.after, "left": list(self.left)} | self.counts()

    def counts(self) -> dict[str, int]:
        """What has been done so far."""
        return {"changed": self.changed, "skipped": self.skipped} | ({"asked": self.asked} if self.asked else {})


def mark_of(kept: Mapping[str, Any] | None) -> Mark:
    """Where to go on; None: at the beginning."""
    return Mark(**dict(kept) | {"left": tuple(kept["left"])}) if kept else Mark()


async def advance(conn: asyncpg.Connection, bulk: Bulk, until: Bound, mark: Mark) -> Mark:
    """Do one chunk in the caller's transaction; returns the mark to commit with it."""
    assert mark.arm is not None
    if mark.left:
        changed, asked = await _change(conn, bulk, mark.arm, list(mark.left), until)
        skipped = mark.skipped + len(mark.left) - len(changed)
        return replace(mark, left=(), changed=mark.changed + len(changed), asked=mark.asked + asked, skipped=skipped)
    read = store.open_ids if mark.arm == "open" else store.done_ids
    ids = await read(conn, bulk.which, until, mark.after, CHUNK)
    if not ids:
        return replace(mark, arm="done" if mark.arm == "open" else None, after=0)
    changed, asked = await _change(conn, bulk, mark.arm, ids, until)
    left = tuple(number for number in ids if number not in changed)
    return replace(mark, after=ids[-1], left=left, changed=mark.changed + len(changed), asked=mark.asked + asked)


async def _change(conn: asyncpg.Connection, bulk: Bulk, arm: str, ids: list[int], until: Bound) -> tuple[set[int], int]:
    """Do it to these jobs; which it was done to, and how many of them were only asked to stop."""
    match bulk.action, arm:
        case "cancel", _:
            return await _cancel(conn, bulk, ids)
        case "retry", "done":
            return set(await history.revive_all(conn, ids, bulk.run_at, until.asked_at)), 0
        case "retry", _:
            return set(await edits.move(conn, ids, bulk.run_at, only_retrying=True)), 0
        case "again", _:
            return set(await history.run_again(conn, ids, bulk.via, bulk.run_at, bulk.correlation_id)), 0
        case "edit", _:
            return set(await edits.edit(conn, ids, bulk.changes)), 0
        case "delete", "done":
            return set(await history.delete_finished(conn, ids, until.asked_at)), 0
        case "delete", _:
            return set(await history.delete_waiting(conn, ids, f"deleted by {bulk.by}")), 0
        case "snooze", _:
            return set(await edits.move(conn, ids, bulk.run_at)), 0
    raise AssertionError(f"unknown action {bulk.action!r}")


async def _cancel(conn: asyncpg.Connection, bulk: Bulk, ids: list[int]) -> tuple[set[int], int]:
    # Who said "waiting" did not mean those that have begun since.
    running = State.RUNNING in bulk.which.states
    ended = set(await history.end_all(conn, ids, State.CANCELLED, f"cancelled by {bulk.by}", force=bulk.force and running))
    rest = [number for number in ids if number not in ended]
    asked = set(await history.ask_cancel(conn, rest)) if rest and running else set()
    return ended | asked, len(asked)
