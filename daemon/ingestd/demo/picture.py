"""What the demo draws: pure functions from its state to the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ingestd.cli.console import milliseconds, table
from ingestd.rollups.reads import RollupStatus

COUNTS = ("read", "inserted", "updated", "unchanged", "rejected", "superseded")
FINAL_LOADS = ("succeeded", "partial", "failed", "skipped")
FINAL_RUNS = ("succeeded", "partial", "failed", "cancelled")
FINAL_JOBS = ("succeeded", "failed", "cancelled", "skipped")
WEATHER = "weather"


@dataclass(frozen=True, slots=True)
class State:
    """What the demo looks at.

    Args:
        loads: of this showing, oldest first.
        run: of the workflow, with its steps.
        flaky: the job that fails twice.
    """

    loads: Sequence[Mapping[str, Any]]
    run: Mapping[str, Any]
    flaky: Mapping[str, Any]
    rollups: Sequence[RollupStatus]
    schedules: Sequence[Mapping[str, Any]]
    url: str

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
        if self.run["state"] != "succeeded":
            found.append(f"workflow {self.run['workflow']}: {self.run['state']}")
        if self.flaky["state"] != "succeeded":
            found.append(f"job {self.flaky['kind']}: {self.flaky['state']}")
        found += [f"rollup {one.name}: {one.state} {one.reason or ''}" for one in self.rollups if one.state != "current"]
        return found


def progress(state: State) -> RenderableType:
    """What is going on right now."""
    grid = Table.grid(padding=(0, 2))
    for load in state.loads:
        fraction = (load["progress"] or {}).get("fraction") if load["status"] == "pending" else 1.0
        text = (load["progress"] or {}).get("text") if load["status"] == "pending" else load["status"]
        bar = ProgressBar(total=1.0, completed=fraction or 0.0, width=28, pulse=load["state"] == "running" and fraction is None)
        grid.add_row(Text(f"load {load['file']}"), bar, Text(str(text or load["reason"] or load["state"]), style="dim"))
    for step in state.run["steps"]:
        grid.add_row(Text(f"step {step['step']}"), Text(step["state"], style="dim"), Text(step["reason"] or "", style="dim"))
    grid.add_row(Text("job flaky_courier"), Text(state.flaky["state"], style="dim"), Text(f"attempt {state.flaky['attempt']}", style="dim"))
    for rollup in state.rollups:
        grid.add_row(Text(f"rollup {rollup.name}"), Text(rollup.state, style="dim"), Text(rollup.reason or "", style="dim"))
    return Panel(grid, title="ingestd demo", title_align="left", border_style="dim")


def summary(state: State, seconds: float) -> RenderableType:
    """What came of it."""
    # columns that are zero everywhere only take room
    counts = [name for name in COUNTS if name == "read" or any(load[name] for load in state.loads)]
    loads = table(
        ["file", "status", *counts, "took", "why"],
        [
            [load["file"], load["status"], *[load[name] or 0 for name in counts], milliseconds(load["duration_ms"]), load["reason"] or " "]
            for load in state.loads
        ],
        title="Loads",
    )
    rollups = table(
        ["rollup", "bucket", "state", "buckets", "rows", "staleness"],
        [
            [one.name, f"{one.bucket} {one.timezone}", one.state, one.buckets, one.rows, f"{one.staleness_seconds:.0f} s"]
            for one in state.rollups
        ],
        title="Rollups",
    )
    steps = " → ".join(f"{step['step']} {step['state']}" for step in state.run["steps"])
    tries = " → ".join(entry["outcome"] for entry in state.flaky["attempts"] or [])
    due = [[f"schedule {one['name']}", "on", f"next {one['next_due_at']:%H:%M:%S} UTC"] for one in state.schedules if one["next_due_at"]]
    jobs = table(
        ["what", "state", "how"],
        [
            [f"workflow {state.run['workflow']}", state.run["state"], steps],
            ["job flaky_courier", state.flaky["state"], tries],
            *due,
        ],
        title="Jobs",
    )
    total = sum(load["read"] or 0 for load in state.loads)
    foot = Text(f"{total:,} records in {seconds:.1f} s. Page: {state.url}", style="bold")
    return Group(loads, Text(), rollups, Text(), jobs, Text(), foot)
