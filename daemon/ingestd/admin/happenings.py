"""What of a node's events others may follow: their names, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from ingestd import events
from ingestd.admin.shapes import masked
from ingestd.events import Event
from ingestd.jobs.filters import FINAL_STATES
from ingestd.logging import without_secrets

LONGEST_TEXT = 500
_IDS = ("job_id", "load_id")
# Stacks and results are for whoever looks at the job; what succeeded by the thousand is counted apart.
_UNTOLD = ("stack", "result", "durations_ms")

_NAMES: Mapping[type[Event], str | Callable[[Any], str]] = {
    events.NodeStarted: "node.started",
    events.NodeDraining: "node.draining",
    events.NodeStopped: "node.stopped",
    events.DatabaseBack: "database.back",
    events.LoopBlocked: "loop.blocked",
    events.LoopFreed: "loop.freed",
    events.LoopFailed: "loop.failed",
    events.JobFinished: lambda e: f"job.{e.state}",
    events.JobRetrying: "job.retrying",
    events.StaleAck: "job.stale",
    events.JobsRescued: "jobs.rescued",
    events.JobSlow: "job.slow",
    events.JobStuck: "job.stuck",
    events.FileArrived: "file.arrived",
    events.LoadFinished: lambda e: f"load.{e.status}",
    events.RollupRefreshed: "rollup.refreshed",
    events.SlotFired: "slot.fired",
    events.SlotMissed: "slot.missed",
    events.SlotOverdue: "slot.overdue",
    events.SlotSlow: "slot.slow",
    events.SlotsStopped: "slots.stopped",
    events.Downtime: "downtime",
    events.ConfigurationApplied: "configuration.applied",
    events.ConfigurationRefused: "configuration.refused",
    events.HorizonHeld: "horizon.held",
    events.IndexRebuilt: "index.rebuilt",
}
# What the feed makes of many.
SUCCEEDED = "jobs.succeeded"
DROPPED = "events.dropped"
NAMES = (
    *(name for name in _NAMES.values() if isinstance(name, str)),
    *(f"job.{state}" for state in FINAL_STATES),
    *(f"load.{status}" for status in ("succeeded", "partial", "failed", "skipped")),
    SUCCEEDED,
    DROPPED,
)


def name_of(event: Event) -> str | None:
    """The name that an event goes by; None for one that is not for others."""
    name = _NAMES.get(type(event))
    return name(event) if callable(name) else name


def data_of(event: Event) -> dict[str, Any]:
    """What is told of an event: ids as strings, texts cut, secrets masked."""
    return {key: _told(key, value) for key, value in asdict(event).items() if key not in _UNTOLD and value is not None}


def _told(key: str, value: Any) -> Any:
    if key in _IDS:
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        # Before it is cut: half of a secret is not known as one.
        return masked(without_secrets(value.replace("\0", ""))[:LONGEST_TEXT])
    if isinstance(value, list | tuple):
        return [_told("", item) for item in value[:50]]
    return value
