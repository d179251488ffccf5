"""What happened, as facts: code emits events, `logging` words them, metrics count them.

A listener is called in the emitting task, must not block and must not raise; one that raises is reported and skipped.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class NodeStarted(Event):
    node: str
    version: str
    admin_url: str | None


@dataclass(frozen=True, slots=True)
class NodeDraining(Event):
    running: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class NodeStopped(Event):
    handed_back: int


@dataclass(frozen=True, slots=True)
class PostgresStarted(Event):
    version: str
    recovered: bool


@dataclass(frozen=True, slots=True)
class DatabaseLost(Event):
    error: str


@dataclass(frozen=True, slots=True)
class DatabaseBack(Event):
    seconds: float


@dataclass(frozen=True, slots=True)
class LoopBlocked(Event):
    """The main loop does not answer; told by another thread, with what the main thread is doing."""

    seconds: float
    stack: str


@dataclass(frozen=True, slots=True)
class LoopFreed(Event):
    """The main loop answers again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LoopFailed(Event):
    """A pass of a loop raised.

    Args:
        repeated: for the reason that was told before; now and then it is told once more.
    """

    loop: str
    error: str
    retry_in_s: float
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class JobStarted(Event):
    job_id: int
    kind: str
    attempt: int
    correlation_id: str | None


@dataclass(frozen=True, slots=True)
class JobsSucceeded(Event):
    """Jobs of one kind that succeeded with nothing to say, and whose acks have been committed together.

    Such jobs may end by the ten thousand a second: they are told of by kind, everything else by `JobFinished`.
    """

    kind: str
    durations_ms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JobFinished(Event):
    """A job reached a final state and its ack has been committed."""

    job_id: int
    kind: str
    state: str
    duration_ms: int
    error: str | None = None
    result: Any = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class JobRetrying(Event):
    job_id: int
    kind: str
    attempt: int
    delay_s: float
    reason: str
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class StaleAck(Event):
    """A result came too late: its job belongs to somebody else now, nothing was written."""

    job_id: int
    kind: str
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class JobsRescued(Event):
    dead_node: str
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class JobSlow(Event):
    """A job runs far longer than others of its kind; told once."""

    job_id: int
    kind: str
    seconds: float
    usual_s: float
    stack: str
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class JobStuck(Event):
    """A job shows no progress and is stopped; `stopped` once it did not heed being told to."""

    job_id: int
    kind: str
    seconds: float
    reason: str
    stack: str
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class FileArrived(Event):
    import_name: str
    name: str
    size: int
    load_id: int


@dataclass(frozen=True, slots=True)
class LoadFinished(Event):
    load_id: int
    import_name: str
    file: str
    status: str
    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    superseded: int = 0
    duration_ms: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RollupRefreshed(Event):
    rollup: str
    chunks: int
    groups: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class SlotFired(Event):
    schedule: str
    due_at: datetime
    job_id: int


@dataclass(frozen=True, slots=True)
class SlotMissed(Event):
    schedule: str
    due_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class SlotOverdue(Event):
    """A slot's job did not start, or not end, by the time its schedule wants; told once of each.

    Args:
        deadline: `start` or `finish`.
        reason: in words, such as "not finished within 2h".
    """

    schedule: str
    due_at: datetime
    deadline: str
    job_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class SlotSlow(Event):
    """A slot's job took or takes longer than its schedule's target_runtime; told once of each."""

    schedule: str
    due_at: datetime
    job_id: int
    target: str


@dataclass(frozen=True, slots=True)
class SlotsStopped(Event):
    """No node has looked after slots for a while, though some are due; told once by each node that sees it."""

    since: datetime
    overdue: int


@dataclass(frozen=True, slots=True)
class Downtime(Event):
    """What a time in which nothing fired slots has cost; told once, when it is over.

    Args:
        schedules: how many lost or delayed slots.
        missed: slots that will not run.
        late: slots that are run after all.
    """

    began_at: datetime
    ended_at: datetime
    schedules: int
    missed: int
    late: int


@dataclass(frozen=True, slots=True)
class ConfigurationApplied(Event):
    changed: tuple[str, ...]
    pending: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConfigurationRefused(Event):
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HorizonHeld(Event):
    """Somebody has kept vacuum from removing dead rows for long; told once of each."""

    who: str
    seconds: float
    hint: str


@dataclass(frozen=True, slots=True)
class IndexRebuilt(Event):
    """A bloated index was rebuilt, or with an error: was not."""

    index: str
    bytes_before: int
    bytes_after: int
    duration_ms: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AccessDenied(Event):
    """Requests of one kind were refused; told of each kind once a minute."""

    actor: str
    address: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something an operator should read that has no event of its own."""

    message: str
    level: str = "warning"
    details: dict[str, Any] = field(default_factory=dict)


class Overdue(str):
    """Words about what takes longer than anybody expects: told also where nobody watches, so that a script is not silent for a minute."""

    __slots__ = ()


Listener = Callable[[Event], None]


class Bus:
    """Hands each event to every listener, in the order they joined."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; returns a function that removes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def wants(self, kind: type[Event]) -> bool:
        """Whether a listener has said, by a method `wants`, that it cares for this type: asked about what happens for every job."""
        return any(listener.wants(kind) for listener in self._listeners if hasattr(listener, "wants"))

    def emit(self, event: Event) -> None:
        """Tell every listener; a listener that raises never harms the emitter."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - reported below; the emitter's work goes on
                traceback.print_exc(file=sys.stderr)
