"""What the demo draws: pure functions from its state to the terminal, made to fit 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ingestd.cli.console import cell, milliseconds, table
from ingestd.rollups.reads import RollupStatus

COUNTS = ("read", "inserted", "updated", "unchanged", "rejected", "superseded")
FINAL_LOADS = ("succeeded", "partial", "failed", "skipped")
FINAL_RUNS = ("succeeded", "partial", "failed", "cancelled")
FINAL_JOBS = ("succeeded", "failed", "cancelled", "skipped")
WEATHER = "weather"
BAR = 20
PANEL = 100
DIM = "dim"


@dataclass(frozen=True, slots=True)
class State:
    """What the demo looks at.

    Args:
        loads: of this showing, oldest first.
        run: of the workflow, with its steps.
        flaky: the job that fails twice.
        rows: table -> how many it holds.
    """

    loads: Sequence[Mapping[str, Any]]
    run: Mapping[str, Any]
    flaky: Mapping[str, Any]
    rollups: Sequence[RollupStatus]
    schedules: Sequence[Mapping[str, Any]]
    url: str
    rows: Mapping[str, int] = field(default_factory=dict)

    def settled(self) -> bool:
        """Whether everything the demo started has come to its end."""
        return (
            any(load["import_name"] == WEATHER for load in self.loads)
            and all(load["status"] in FINAL_LOADS for load in self.loads)
            and self.run["state"] in FINAL_RUNS
            and self.flaky["state"] in FINAL_JOBS
            and all(rollup.state == "current" for rollup in self.rollups)
        )

    def problems(self) -> list[str]:
        """What did not come out as it should."""
        found = [f"load of {load['file']} {load['status']}: {load['reason']}" for load in self.loads if load["status"] == "failed"]
        found += [f"load of {load['file']} is still {load['state']}" for load in self.loads if load["status"] == "pending"]
        if self.run["state"] != "succeeded":
            found.append(f"workflow {self.run['workflow']}: {self.run['state']}")
        if self.flaky["state"] != "succeeded":
            found.append(f"job {self.flaky['kind']}: {self.flaky['state']}")
        found += [f"rollup {one.name}: {one.state} {one.reason or ''}" for one in self.rollups if one.state != "current"]
        return found


def progress(state: State, width: int) -> RenderableType:
    """What is going on right now.

    Args:
        width: of the terminal.
    """
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style=DIM)
    grid.add_column(no_wrap=True)
    grid.add_column(min_width=BAR, no_wrap=True)
    grid.add_column(style=DIM, no_wrap=True, overflow="ellipsis", ratio=1)
    for load in state.loads:
        grid.add_row("file", Text(load["file"]), _bar(load), Text(_doing(load)))
    for step in state.run["steps"]:
        waits = step["state"] == "blocked" and f"after {', '.join(step['after'])}"
        grid.add_row("step", Text(step["step"]), cell(step["state"]), Text(step["reason"] or waits or ""))
    grid.add_row("job", Text(state.flaky["kind"]), cell(state.flaky["state"]), Text(f"attempt {state.flaky['attempt']}"))
    for rollup in state.rollups:
        grid.add_row("rollup", Text(rollup.name), cell(rollup.state), Text(rollup.reason or ""))
    # a terminal echoes ^C behind the last line: if that wrapped, what is drawn could not be taken back
    return Panel(grid, title="ingestd demo", title_align="left", border_style=DIM, width=min(width - len("^C") - 1, PANEL))


def _bar(load: Mapping[str, Any]) -> ProgressBar:
    done = load["status"] in FINAL_LOADS
    fraction = 1.0 if done else (load["progress"] or {}).get("fraction")
    return ProgressBar(total=1.0, completed=fraction or 0.0, width=BAR, pulse=load["state"] == "running" and fraction is None)


def _doing(load: Mapping[str, Any]) -> str:
    if load["status"] in FINAL_LOADS:
        return f"{load['read']:,} records" if load["read"] else str(load["status"])
    return str((load["progress"] or {}).get("text") or load["reason"] or ("loading" if load["state"] == "running" else "waiting"))


def summary(state: State, seconds: float) -> RenderableType:
    """What came of it.

    Args:
        seconds: it took.
    """
    parts: list[RenderableType] = [_loads(state)]
    if state.loads and all(load["status"] == "skipped" for load in state.loads):
        parts.append(Text("Nothing was loaded again: an earlier run had the same content (by SHA-256).", style="yellow"))
    rollups = table(
        ["rollup", "bucket", "state", "buckets", "rows", "staleness"],
        [
            [one.name, f"{one.bucket} {one.timezone}", one.state, one.buckets, one.rows, f"{one.staleness_seconds:.0f} s"]
            for one in state.rollups
        ],
        title="Rollups",
    )
    return Group(*parts, Text(), rollups, Text(), _jobs(state), Text(), Text(_last_line(state, seconds), style="bold"))


def _loads(state: State) -> Table | str:
    # columns that are zero everywhere only take room
    counts = [name for name in COUNTS if name == "read" or any(load[name] for load in state.loads)]
    explained = any(load["reason"] for load in state.loads)
    return table(
        ["file", "status", *counts, "took", "rows now", *(["why"] if explained else [])],
        [
            [
                load["file"],
                load["status"],
                *[load[name] or 0 for name in counts],
                milliseconds(load["duration_ms"]),
                state.rows.get(load["table"]),
                *([load["reason"] or " "] if explained else []),
            ]
            for load in state.loads
        ],
        title="Loads",
    )


def _jobs(state: State) -> Table | str:
    steps = " → ".join(step["step"] if step["state"] == "succeeded" else f"{step['step']} ({step['state']})" for step in state.run["steps"])
    tries = " → ".join(entry["outcome"] for entry in state.flaky["attempts"] or [])
    due = [[f"schedule {one['name']}", "on", f"next {one['next_due_at']:%H:%M:%S} UTC"] for one in state.schedules if one["next_due_at"]]
    return table(
        ["what", "state", "how"],
        [
            [f"workflow {state.run['workflow']}", state.run["state"], steps],
            [f"job {state.flaky['kind']}", state.flaky["state"], tries],
            *due,
        ],
        title="Jobs",
    )


def _last_line(state: State, seconds: float) -> str:
    read = sum(load["read"] or 0 for load in state.loads)
    skipped = sum(load["status"] == "skipped" for load in state.loads)
    holds = f"the tables hold {sum(state.rows.values()):,} rows"
    if skipped and not read:
        return f"{skipped} files skipped in {seconds:.1f} s, loaded before; {holds}."
    return f"{read:,} records in {seconds:.1f} s; {holds}."
