"""`jobs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import typer

from ingestd.cli import job_actions
from ingestd.cli.console import details, error_line, milliseconds, strings_for_ids, table, traceback_lines
from ingestd.cli.job_filter import filtered
from ingestd.cli.options import JobId
from ingestd.cli.shell import Shell
from ingestd.cli.sources.jobs import reach
from ingestd.jobs.filters import JobFilter

REJECTS_SHOWN = 20


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""

    jobs = typer.Typer(help="Look at jobs; cancel, retry, edit them, one or many.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(jobs, name="jobs")

    @jobs.command("list")
    @filtered
    def list_jobs(
        ctx: typer.Context,
        which: JobFilter,
        limit: int = typer.Option(20, "--limit", metavar="N", min=1, max=1000, help="How many, 1 to 1000."),
        before: int = typer.Option(None, "--before", metavar="JOB_ID", min=1, help="Only older ones, for the next page."),
    ) -> None:
        """The newest jobs, open and finished."""
        shell: Shell = ctx.obj
        shell.run(_list(shell, replace(which, before_id=before), limit))

    @jobs.command()
    @filtered
    def dead(
        ctx: typer.Context,
        which: JobFilter,
        limit: int = typer.Option(20, "--limit", metavar="N", min=1, max=1000, help="How many groups, 1 to 1000."),
    ) -> None:
        """Jobs that failed for good, by what went wrong."""
        shell: Shell = ctx.obj
        shell.run(_dead(shell, which, limit))

    @jobs.command()
    def show(ctx: typer.Context, job_id: JobId) -> None:
        """One job with its attempts."""
        shell: Shell = ctx.obj
        shell.run(_show(shell, job_id))

    job_actions.add_to(jobs)


async def _list(shell: Shell, which: JobFilter, limit: int) -> None:
    async with reach(shell) as source:
        await source.require_queue(which.queue)
        found, more = await source.jobs(which, limit)
    rows = [
        [
            str(job["id"]),
            job["kind"],
            job["queue"],
            "partial" if job["partial"] else job["state"],
            f"{job['attempt']}/{job['max_attempts']}",
            job["created_at"],
            milliseconds(job["duration_ms"]),
            job["reason"] or (job["error"] or {}).get("message"),
        ]
        for job in found
    ]
    columns = ["id", "kind", "queue", "state", "attempt", "created", "took", "why"]
    document = {"items": strings_for_ids(found), "next_before": str(found[-1]["id"]) if more else None}
    shell.answer(document, table(columns, rows) if found else "no jobs")


async def _dead(shell: Shell, which: JobFilter, limit: int) -> None:
    async with reach(shell) as source:
        await source.require_queue(which.queue)
        groups = await source.dead(which, limit)
    rows = [
        [group["error_group"], group["kind"], group["error_class"], group["message"], group["jobs"], group["first_seen"],
         group["last_seen"], str(group["sample"])]
        for group in groups
    ]  # fmt: skip
    columns = ["group", "kind", "error", "message", "jobs", "first", "last", "newest"]
    shown = [group | {"sample": str(group["sample"])} for group in groups]
    shell.answer({"items": shown}, table(columns, rows) if groups else "no job has failed for good")


def _attempts(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A line each. A crash spends no attempt, so that several may bear one number."""
    lines: dict[str, str] = {}
    for place, entry in enumerate(entries, start=1):
        number = entry.get("n", place)
        again = sum(1 for before in entries[: place - 1] if before.get("n") == number)
        name = f"attempt {number}" + (f", again ({again})" if again else "")
        lines[name] = f"{entry.get('outcome')} {error_line(entry.get('error')) or ''}".rstrip()
    return lines


async def _show(shell: Shell, job_id: int) -> None:
    async with reach(shell) as source:
        found = await source.job(job_id)
    facts = found | {"attempts": None, "rejects": None, "children": None, "error": error_line(found["error"])}
    if found["workflow_run"] is not None:
        facts |= {"workflow": f"{found['workflow']}, run {found['workflow_run']}, step {found['step']}", "workflow_run": None, "step": None}
    facts |= _attempts(found["attempts"] or [])
    for number, reject in enumerate((found["rejects"] or [])[:REJECTS_SHOWN], start=1):
        facts[f"reject {number}"] = f"{reject.get('item')}: {reject.get('reason')}"
    for child in found["children"]:
        facts[f"child {child['id']}"] = f"{child['kind']} {child['state']}"
    shell.answer(strings_for_ids(found), details(facts))
    if not shell.json:
        shell.answer(None, traceback_lines(found["error"]))
