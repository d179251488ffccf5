"""What rooms know about their objects, worded for one row of the page. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ingestd.admin.words import age, arguments, compact, fault, number
from ingestd.rollups.reads import RollupStatus

RETRYABLE = frozenset({"failed", "cancelled"})
OPEN = frozenset({"scheduled", "blocked", "available", "running", "retrying"})


def fraction_of(progress: Any) -> float | None:
    """The share of the work that is done, 0..1, where it is known."""
    value = progress.get("fraction") if isinstance(progress, Mapping) else progress
    return min(max(float(value), 0.0), 1.0) if isinstance(value, int | float) and not isinstance(value, bool) else None


def text_of(progress: Any) -> str:
    """What a job says about its progress."""
    return str(progress.get("text") or "") if isinstance(progress, Mapping) else ""


def job_row(job: Mapping[str, Any]) -> dict[str, Any]:
    """One job."""
    state = str(job["state"])
    running = state == "running"
    trouble = ""
    if state in ("failed", "retrying"):
        trouble = compact(job["reason"], 240) if state == "failed" and job["reason"] else fault(job["error"])
    detail = (text_of(job["progress"]) if running else "") or str(job["reason"] or "") or arguments(job["args"])
    return {
        "id": job["id"],
        "kind": job["kind"],
        "queue": job["queue"],
        "pill": "partial" if job["partial"] else state,
        "attempt": job["attempt"],
        "max_attempts": job["max_attempts"],
        "fraction": fraction_of(job["progress"]) if running else None,
        "duration_ms": job["duration_ms"],
        "trouble": trouble,
        "detail": detail,
        "at": job["finished_at"] or (job["started_at"] if running else job["run_at"]),
        "can_retry": state in RETRYABLE,
        "can_cancel": state in OPEN,
    }


def load_row(load: Mapping[str, Any]) -> dict[str, Any]:
    """One load."""
    status, state = str(load["status"]), str(load["state"])
    running = status == "pending" and state == "running"
    detail = f"{load['import_name']} → {load['table']}"
    if status == "skipped" and load["duplicate_of"] is not None:
        detail = f"skipped: already loaded by load {load['duplicate_of']}"
    elif status == "skipped" or (status == "pending" and load["reason"]):
        detail = str(load["reason"] or detail)
    elif status == "partial":
        detail += f", {number(load['rejected'])} rejected"
    elif status == "succeeded" and load["superseded"]:
        detail += f", {number(load['superseded'])} superseded within the file"
    blocked = status == "pending" and load["blocked_by"] is not None
    return {
        "id": load["id"],
        "file": load["file"],
        "pill": ("blocked" if blocked else state) if status == "pending" else status,
        "read": load["read"],
        "inserted": load["inserted"],
        "updated": load["updated"],
        "unchanged": load["unchanged"],
        "rejected": load["rejected"],
        "fraction": fraction_of(load["progress"]) if running else None,
        "progress": text_of(load["progress"]),
        "duration_ms": load["duration_ms"],
        "trouble": compact(load["reason"], 240) if status == "failed" or blocked else "",
        "detail": detail,
        "at": load["finished_at"] or load["started_at"] or load["created_at"],
        "can_retry": status == "failed",
    }


def rollup_row(rollup: RollupStatus) -> dict[str, Any]:
    """One rollup."""
    pill, freshness = (
        rollup.state,
        {
            "current": "fresh",
            "dirty": f"{age(rollup.staleness_seconds)} stale",
        }.get(rollup.state, rollup.state),
    )
    if rollup.flag in ("off", "frozen"):
        pill, freshness = "paused", rollup.flag
    shown = [rollup.source, rollup.bucket]
    if rollup.buckets:
        shown.append(f"{number(rollup.rows)} row{'s' if rollup.rows != 1 else ''}")
    if rollup.successor:
        shown.append(f"new version {rollup.successor}")
    waits = rollup.state == "waiting" and rollup.reason
    return {
        "name": rollup.name,
        "pill": pill,
        "freshness": freshness,
        "trouble": compact(rollup.reason, 200) if rollup.reason and not waits else "",
        "detail": compact(rollup.reason, 200) if waits else ", ".join(shown),
        "last_refresh": rollup.last_refresh,
        "can_refresh": rollup.state != "waiting" and rollup.flag in ("on", "shadow"),
    }


def workflow_row(name: str, run: Mapping[str, Any] | None) -> dict[str, Any]:
    """One workflow with its last run, its steps in stages: a step stands after all that it waits for."""
    if run is None:
        return {"name": name, "run": None, "at": None, "state": "", "stages": [], "trouble": "", "can_retry": False, "can_cancel": False}
    depth, left = _depths(run["steps"]), run.get("not_undone")
    stages: list[list[dict[str, Any]]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for step in run["steps"]:
        state = "partial" if step["partial"] else str(step.get("job_state") or step["state"])
        stages[depth[step["step"]]].append({"name": step["step"], "state": state, "reason": compact(step["reason"], 200)})
    return {
        "name": name,
        "run": run["id"],
        "at": run["finished_at"] or run["created_at"],
        "state": str(run["state"]),
        "stages": stages,
        "trouble": f"not taken back: {', '.join(left)}" if left and run["finished_at"] else "",
        "can_retry": run["state"] in RETRYABLE,
        "can_cancel": run["finished_at"] is None,
    }


def _depths(steps: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """In which stage each step stands; compensations come after all that went forward."""
    depth: dict[str, int] = {}
    forward = 0
    for step in steps:
        first = forward if step.get("compensates") else 0
        depth[step["step"]] = max((depth.get(parent, -1) + 1 for parent in step["after"]), default=first)
        if not step.get("compensates"):
            forward = max(forward, depth[step["step"]] + 1)
    return depth


def node_row(node: Mapping[str, Any]) -> dict[str, Any]:
    """One node."""
    state = str(node["state"])
    lives = state in ("starting", "running", "draining")
    silent = lives and node["silent_s"] > 15
    text = f"{state}, silent for {age(node['silent_s'])}" if silent else state
    if lives and not silent:
        lag = node["loop_lag_ms"]
        text = f"{number(node['running'])} running" + (f", loop lag {lag:.0f} ms" if lag is not None else "")
    look = "bad" if silent or state == "dead" else "warn" if state == "draining" else "quiet" if state == "stopped" else "good"
    return {"name": str(node["name"]), "state": state, "tone": look, "text": text}
