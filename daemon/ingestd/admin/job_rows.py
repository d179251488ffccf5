"""What is known about one job, worded for its page. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

from ingestd.admin.rows import OPEN
from ingestd.admin.words import compact, duration, fault
from ingestd.settings import format_duration

REJECTS_SHOWN = 20


class Fact(NamedTuple):
    """One line: a label, and a text or a moment, perhaps with a link."""

    label: str
    text: str = ""
    href: str = ""
    moment: datetime | None = None


def job_facts(job: Mapping[str, Any]) -> list[Fact]:
    """Everything that has a value, in the order in which one asks for it."""
    final = job["state"] not in OPEN
    facts = [
        Fact("Queue", job["queue"], _list(queue=job["queue"])),
        Fact("Priority", str(job["priority"])),
        Fact("Attempt", f"{job['attempt']} of {job['max_attempts']}" + (f", {job['crashes']} crashes" if job["crashes"] else "")),
        Fact("Created", moment=job["created_at"]),
        Fact("Not before", moment=None if final or job["state"] == "running" else job["run_at"]),
        Fact("Started", moment=job["started_at"]),
        Fact("Finished", moment=job["finished_at"]),
        Fact("Took" if final else "Runs for", duration(job["duration_ms"]) if job["duration_ms"] is not None else ""),
        Fact("Node", job["node"] or ""),
        Fact("Triggered by", job["triggered_by"]),
        Fact("Correlation", job["correlation_id"] or "", _list(correlation_id=job["correlation_id"] or "")),
        Fact("Parent", f"job {job['parent_id']}" if job["parent_id"] else "", f"/jobs/{job['parent_id']}"),
        Fact("Workflow", _workflow(job), _list(run=str(job["workflow_run"]))),
        Fact("Key", (job["key"] or "") + (", strict" if job["key_strict"] else "")),
        Fact("Holds its key since", moment=job["held_since"]),
        Fact("Unique key", job["unique_key"] or ""),
        Fact("Timeout", format_duration(job["timeout"]) if job["timeout"] else ""),
        Fact("Hard timeout", format_duration(job["hard_timeout"]) if job["hard_timeout"] else ""),
        Fact("Counts", ", ".join(f"{number} {name}" for name, number in (job["counts"] or {}).items() if number)),
        Fact("Notes", job["notes"] or ""),
    ]
    return [fact for fact in facts if fact.text or fact.moment is not None]


def attempt_rows(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The attempts, the latest first."""
    return [
        {
            "n": entry.get("n"),
            "outcome": str(entry.get("outcome") or ""),
            "pill": {"succeeded": "succeeded", "retry": "retrying", "failed": "failed", "cancelled": "cancelled"}.get(
                str(entry.get("outcome")), "failed"
            ),
            "at": _moment(entry.get("started_at")),
            "duration_ms": entry.get("duration_ms"),
            "trouble": fault(entry.get("error")),
            "traceback": traceback_of(entry.get("error")),
        }
        for entry in reversed(job["attempts"] or [])
        if isinstance(entry, Mapping)
    ]


def reject_rows(job: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the handler could not take."""
    found = [reject for reject in job["rejects"] or [] if isinstance(reject, Mapping)][:REJECTS_SHOWN]
    return [{"item": compact(reject.get("item")), "reason": compact(reject.get("reason"))} for reject in found]


def traceback_of(error: Any) -> str:
    """Where an error came from, if that was kept."""
    return str(error.get("traceback") or "") if isinstance(error, Mapping) else ""


def edit_fields(job: Mapping[str, Any]) -> dict[str, str]:
    """What the form for an edit is filled with."""
    return {
        "priority": str(job["priority"]),
        "queue": job["queue"],
        "run_at": job["run_at"].isoformat(timespec="seconds").replace("+00:00", ""),
        "max_attempts": str(job["max_attempts"]),
        "timeout": format_duration(job["timeout"]) if job["timeout"] else "",
        "hard_timeout": format_duration(job["hard_timeout"]) if job["hard_timeout"] else "",
        "tags": ", ".join(job["tags"]),
        "notes": job["notes"] or "",
    }


def _workflow(job: Mapping[str, Any]) -> str:
    return f"{job['workflow']}, run {job['workflow_run']}, step {job['step']}" if job["workflow_run"] else ""


def _list(**words: str) -> str:
    return f"/jobs?{urlencode(words)}"


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else text
    except ValueError:
        return None
