"""`workflows`."""

from __future__ import annotations

from typing import Any

import typer

from ingestd.access.store import record_audit
from ingestd.app.targets import target_job
from ingestd.cli.console import strings_for_ids, table
from ingestd.cli.options import RunId, WorkflowName
from ingestd.cli.session import session
from ingestd.cli.shell import Shell
from ingestd.errors import NotFound
from ingestd.jobs import workflow as jobs_workflow
from ingestd.jobs.store import reads
from ingestd.settings import did_you_mean


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""
    workflows = typer.Typer(help="Look at workflows and start them.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(workflows, name="workflows")

    @workflows.command("list")
    def list_workflows(ctx: typer.Context) -> None:
        """The declared workflows and their last run."""
        shell: Shell = ctx.obj
        shell.run(_list(shell))

    @workflows.command()
    def start(ctx: typer.Context, name: WorkflowName) -> None:
        """Start a run."""
        shell: Shell = ctx.obj
        shell.run(_start(shell, name))

    @workflows.command()
    def show(ctx: typer.Context, run: RunId) -> None:
        """One run, step by step."""
        shell: Shell = ctx.obj
        shell.run(_show(shell, run))


async def _list(shell: Shell) -> None:
    found: list[dict[str, Any]] = []
    async with session(shell) as opened:
        for name, declared in opened.settings.workflows.items():
            last = next(iter(await reads.workflow_runs(opened.conn, name, limit=1)), None)
            found.append({"name": name, "steps": list(declared.steps), "last_run": last})
    rows = []
    for one in found:
        last = one["last_run"] or {}
        run = str(last["id"]) if last else None
        rows.append([one["name"], " → ".join(one["steps"]), run, last.get("state"), last.get("created_at")])
    columns = ["name", "steps", "last run", "state", "started"]
    shell.answer({"items": strings_for_ids(found)}, table(columns, rows) if found else "no workflows are declared")


async def _start(shell: Shell, name: str) -> None:
    async with session(shell) as opened:
        declared = opened.settings.workflows.get(name)
        if declared is None:
            raise NotFound(f'there is no workflow "{name}"{did_you_mean(name, opened.settings.workflows)}')
        async with opened.conn.transaction():
            run = await jobs_workflow.start(opened.conn, declared.compile(name, target_job), triggered_by="cli")
            await record_audit(opened.conn, shell.actor, "start", "workflow", name, {"run": run})
        await opened.tell_if_nobody_works(shell)
    shell.answer({"run": str(run)}, f"run {run}")


async def _show(shell: Shell, run: int) -> None:
    async with session(shell) as opened:
        found = await reads.workflow_runs(opened.conn, run=run)
    if not found:
        raise NotFound(f"there is no workflow run {run}")
    rows = []
    for step in found[0]["steps"]:
        state = "partial" if step["partial"] else step["state"]
        rows.append([step["step"], ", ".join(step["after"]), state, str(step["job_id"]), step["finished_at"], step["reason"]])
    title = f"{found[0]['workflow']} run {run}: {found[0]['state']}"
    shell.answer(strings_for_ids(found[0]), table(["step", "after", "state", "job", "finished", "why"], rows, title=title))
