"""`workflows`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from ingestd.cli.console import cell, milliseconds, strings_for_ids, table
from ingestd.cli.options import RunId, WorkflowName
from ingestd.cli.records import add_records
from ingestd.cli.shell import Shell
from ingestd.cli.sources.workflows import reach

RESULT_CHARS = 60


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""
    workflows = typer.Typer(help="Look at workflows, start, retry and cancel them.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(workflows, name="workflows")

    @workflows.command("list")
    def list_workflows(ctx: typer.Context) -> None:
        """The declared workflows and their last run."""
        shell: Shell = ctx.obj
        shell.run(_list(shell))

    @workflows.command()
    def start(
        ctx: typer.Context,
        name: WorkflowName,
        dry_run: bool = typer.Option(False, "--dry-run", help="Only tell what would run, in which order, and what happens on failure."),
    ) -> None:
        """Start a run."""
        shell: Shell = ctx.obj
        shell.run(_plan(shell, name) if dry_run else _start(shell, name))

    @workflows.command()
    def show(ctx: typer.Context, run: RunId) -> None:
        """One run, step by step."""
        shell: Shell = ctx.obj
        shell.run(_show(shell, run))

    @workflows.command()
    def retry(
        ctx: typer.Context,
        run: RunId,
        step: str = typer.Option("", "--step", metavar="STEP", help="Only this step and what did not succeed behind it."),
    ) -> None:
        """Run again what did not succeed in a run that has ended.

        What succeeded is kept.
        """
        shell: Shell = ctx.obj
        shell.run(_retry(shell, run, step))

    @workflows.command()
    def cancel(
        ctx: typer.Context,
        run: RunId,
        undo: bool = typer.Option(False, "--undo", help="Also take back what has succeeded."),
    ) -> None:
        """Cancel what has not ended of a run.

        What runs is asked to stop.
        """
        shell: Shell = ctx.obj
        shell.run(_cancel(shell, run, undo))

    add_records(workflows, "workflow")


async def _list(shell: Shell) -> None:
    async with reach(shell) as source:
        found = await source.workflows()
    rows = []
    for one in found:
        last = one["last_run"] or {}
        run = str(last["id"]) if last else None
        rows.append([one["name"], " → ".join(one["steps"]), run, last.get("state"), last.get("created_at")])
    columns = ["name", "steps", "last run", "state", "started"]
    shell.answer({"items": strings_for_ids(found)}, table(columns, rows) if found else "no workflows are declared")


async def _start(shell: Shell, name: str) -> None:
    async with reach(shell) as source:
        run, waits = await source.start(name)
        await source.tell_if_nobody_works()
    shell.answer({"run": run}, f"run {run}{', which waits for the one before it' if waits else ''}")


async def _plan(shell: Shell, name: str) -> None:
    async with reach(shell) as source:
        planned = await source.plan(name)
    rows = [
        [
            str(number),
            step["step"],
            step["kind"],
            step["queue"],
            ", ".join(step["after"]) + (" (complete)" if step["require"] == "complete" else ""),
            _told(step["if_it_fails"], step["on_failure"]),
            step["undo"]["kind"] if step["undo"] else None,
        ]
        for number, layer in enumerate(planned["layers"], start=1)
        for step in layer
    ]
    shown = table(["layer", "step", "job", "queue", "after", "if it fails", "undo"], rows, title=_starts(planned))
    shell.answer(strings_for_ids(planned), shown)


def _starts(planned: Mapping[str, Any]) -> str:
    name, busy = planned["workflow"], planned["busy_run"]
    if planned["starts"] == "refused":
        return f"{name}: would be refused now, run {busy} is open"
    return f"{name}: would wait for run {busy}" if planned["starts"] == "waits" else f"{name}: would start now"


def _told(consequence: Mapping[str, list[str]], on_failure: str) -> str:
    told = [f"skips {', '.join(consequence['skips'])}"] if consequence["skips"] else []
    if consequence["undoes"]:
        told.append(f"takes back {', '.join(consequence['undoes'])}")
    elif on_failure == "compensate":
        told.append("ends the run")
    return "; ".join(told)


async def _show(shell: Shell, run: int) -> None:
    async with reach(shell) as source:
        found = await source.run(run)
    rows = []
    depth: dict[str, int] = {}
    for step in found["steps"]:
        name = step["step"]
        depth[name] = max((depth.get(parent, -1) + 1 for parent in step["after"]), default=0)
        state = "partial" if step["partial"] else step["job_state"] or step["state"]
        why = step["reason"] or cell(step["result"]).plain[:RESULT_CHARS] if step["result"] is not None else step["reason"]
        rows.append([f"{'  ' * depth[name]}{name}", ", ".join(step["after"]), state, str(step["job_id"] or "-"), step["finished_at"], why])
    shown = table(["step", "after", "state", "job", "finished", "why, or result"], rows, title=_title(found))
    shell.answer(strings_for_ids(found), shown)


def _title(run: Mapping[str, Any]) -> str:
    took = None
    if run["finished_at"] is not None:
        took = milliseconds(round((run["finished_at"] - run["created_at"]).total_seconds() * 1000))
    left = f"; not taken back: {', '.join(run['not_undone'])}" if run["not_undone"] and run["finished_at"] else ""
    return f"{run['workflow']} run {run['id']}: {run['state']}{f' after {took}' if took else ''}{left}"


async def _retry(shell: Shell, run: int, step: str) -> None:
    async with reach(shell) as source:
        state, steps = await source.retry(run, step)
        await source.tell_if_nobody_works()
    shell.answer({"run": str(run), "state": state, "steps": steps}, f"run {run} is {state} again: {', '.join(steps)}")


async def _cancel(shell: Shell, run: int, undo: bool) -> None:
    async with reach(shell) as source:
        done = await source.cancel(run, undo=undo)
        await source.tell_if_nobody_works()
    told = "is being taken back" if done == "compensating" else "is being cancelled"
    shell.answer({"run": str(run), "state": done}, f"run {run} {told}")
