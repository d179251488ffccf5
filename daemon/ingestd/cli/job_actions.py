"""`jobs retry|cancel|again|edit|delete|snooze`: one job by its id, or all that match."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

import typer

from ingestd.cli.console import strings_for_ids, table
from ingestd.cli.job_filter import filtered, when
from ingestd.cli.options import parse_moment, parse_object, parse_option
from ingestd.cli.shell import Shell
from ingestd.cli.sources.jobs import Far, Near, reach
from ingestd.errors import InvalidInput, UsageError
from ingestd.jobs.bulk import Bulk, plan
from ingestd.jobs.changes import changes_of
from ingestd.jobs.filters import JobFilter
from ingestd.settings import parse_duration, parse_priority

Ids = Annotated[list[int] | None, typer.Argument(min=1, max=2**63 - 1, metavar="JOB_ID", help="Jobs; without any, the options say which.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell which jobs that would be.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
At = Annotated[str, typer.Option("--at", metavar="TIME", help="Not before: an ISO time, or a duration such as 10m.")]
In = Annotated[str, typer.Option("--in", metavar="DURATION", help="Not before so much later than now.")]
One = Callable[[Near | Far, int], Awaitable[tuple[dict[str, Any], str]]]
NOTHING = "none"


def add_to(jobs: typer.Typer) -> None:
    """Enter the commands into `jobs`."""
    _add_moving(jobs)
    _add_ending(jobs)
    _add_edit(jobs)


def _add_moving(jobs: typer.Typer) -> None:
    @jobs.command()
    @filtered
    def retry(
        ctx: typer.Context, which: JobFilter, job_ids: Ids = None, at: At = "", wait: In = "", dry_run: DryRun = False, yes: Yes = False
    ) -> None:
        """Bring failed or cancelled jobs back, or hurry retrying ones."""
        shell: Shell = ctx.obj
        run_at = when(at, wait)

        async def one(source: Near | Far, job_id: int) -> tuple[dict[str, Any], str]:
            await source.retry(job_id, run_at)
            return {"id": str(job_id)}, f"job {job_id} is back in its queue"

        _act(shell, "retry", job_ids, which, dry_run, yes, one, run_at=run_at)

    @jobs.command()
    @filtered
    def again(
        ctx: typer.Context, which: JobFilter, job_ids: Ids = None, at: At = "", wait: In = "", dry_run: DryRun = False, yes: Yes = False
    ) -> None:
        """Run finished jobs once more, as new jobs."""
        shell: Shell = ctx.obj
        run_at = when(at, wait)

        async def one(source: Near | Far, job_id: int) -> tuple[dict[str, Any], str]:
            made = await source.again(job_id, run_at)
            return {"id": made, "parent_id": str(job_id)}, f"job {job_id} runs again as job {made}"

        _act(shell, "again", job_ids, which, dry_run, yes, one, run_at=run_at)

    @jobs.command()
    @filtered
    def snooze(
        ctx: typer.Context, which: JobFilter, job_ids: Ids = None, at: At = "", wait: In = "", dry_run: DryRun = False, yes: Yes = False
    ) -> None:
        """Let waiting jobs run later, or earlier."""
        shell: Shell = ctx.obj
        run_at = when(at, wait)
        if run_at is None:
            raise InvalidInput("say until when: --in 2h, or --at TIME", pointer="--in")
        until: datetime = run_at

        async def one(source: Near | Far, job_id: int) -> tuple[dict[str, Any], str]:
            await source.snooze(job_id, until)
            return {"id": str(job_id), "run_at": until}, f"job {job_id} waits until {until.astimezone():%Y-%m-%d %H:%M:%S}"

        _act(shell, "snooze", job_ids, which, dry_run, yes, one, run_at=run_at)


def _add_ending(jobs: typer.Typer) -> None:
    @jobs.command()
    @filtered
    def cancel(
        ctx: typer.Context,
        which: JobFilter,
        job_ids: Ids = None,
        force: bool = typer.Option(False, "--force", help="End running jobs at once: what they do from now on is refused."),
        dry_run: DryRun = False,
        yes: Yes = False,
    ) -> None:
        """Cancel waiting jobs, or ask the nodes that run them to."""
        shell: Shell = ctx.obj

        async def one(source: Near | Far, job_id: int) -> tuple[dict[str, Any], str]:
            done = await source.cancel(job_id, force=force)
            return {"id": str(job_id), "state": done}, f"job {job_id}: {done}"

        _act(shell, "cancel", job_ids, which, dry_run, yes, one, force=force)

    @jobs.command()
    @filtered
    def delete(ctx: typer.Context, which: JobFilter, job_ids: Ids = None, dry_run: DryRun = False, yes: Yes = False) -> None:
        """Delete jobs that wait, or finished ones from history."""
        shell: Shell = ctx.obj

        async def one(source: Near | Far, job_id: int) -> tuple[dict[str, Any], str]:
            was = await source.delete(job_id)
            return {"id": str(job_id), "was": was}, f"job {job_id}, which was {was}, is deleted"

        _act(shell, "delete", job_ids, which, dry_run, yes, one)


def _add_edit(jobs: typer.Typer) -> None:
    @jobs.command()
    @filtered
    def edit(
        ctx: typer.Context,
        which: JobFilter,
        job_ids: Ids = None,
        args: str = typer.Option("", "--args", metavar="JSON", help="New arguments, a JSON object."),
        priority: str = typer.Option("", "--priority", metavar="PRIORITY", help="low, normal, high or -100..100."),
        new_queue: str = typer.Option("", "--new-queue", metavar="NAME", help="Lane to move to."),
        run_at: str = typer.Option("", "--run-at", metavar="TIME", help="Not before: an ISO time, or a duration such as 10m."),
        max_attempts: int = typer.Option(None, "--max-attempts", min=1, max=1000, metavar="N", help="A first try and its retries."),
        timeout: str = typer.Option("", "--timeout", metavar="DURATION", help="Of one attempt; none: the kind's."),
        hard_timeout: str = typer.Option("", "--hard-timeout", metavar="DURATION", help="Of one attempt; none: the kind's."),
        new_tag: list[str] = typer.Option([], "--new-tag", metavar="TAG", help="Tags in place of those it has; may be repeated."),
        notes: str = typer.Option(None, "--notes", metavar="TEXT", help="For people."),
        dry_run: DryRun = False,
        yes: Yes = False,
    ) -> None:
        """Change jobs that wait."""
        shell: Shell = ctx.obj
        changes = _changes(
            args=parse_object("--args", args, '{"supplier": "acme"}') if args else None,
            priority=parse_option("--priority", parse_priority, priority) if priority else None,
            queue=new_queue or None,
            run_at=parse_moment("--run-at", run_at) if run_at else None,
            max_attempts=max_attempts,
            timeout=timeout,
            hard_timeout=hard_timeout,
            tags=new_tag or None,
            notes=notes,
        )

        async def one(source: Near | Far, job_id: int) -> tuple[dict[str, Any], str]:
            await source.edit(job_id, changes)
            return {"id": str(job_id), "changed": sorted(changes)}, f"job {job_id}: {', '.join(sorted(changes))} changed"

        _act(shell, "edit", job_ids, which, dry_run, yes, one, changes=changes)


def _changes(*, timeout: str, hard_timeout: str, notes: str | None, **given: Any) -> dict[str, Any]:
    """What was given; `none` takes a timeout away, and an empty text the notes."""
    found = {name: value for name, value in given.items() if value is not None}
    for name, text in (("timeout", timeout), ("hard_timeout", hard_timeout)):
        if text:
            found[name] = None if text == NOTHING else parse_option(f"--{name.replace('_', '-')}", parse_duration, text)
    if notes is not None:
        found["notes"] = notes or None
    if not found:
        raise UsageError("say what to change, such as --priority high")
    return changes_of(**found)


def _act(shell: Shell, action: str, ids: list[int] | None, which: JobFilter, dry_run: bool, yes: bool, one: One, **how: Any) -> None:
    """One job named and nothing else said: that one. Otherwise all that match, after a look at them."""
    if not ids and which.empty:
        raise UsageError(f"say which jobs to {action}: ids, or options such as --kind; see `ingestd jobs {action} --help`")
    if ids and len(ids) == 1 and which.empty and not dry_run:
        if action == "delete":
            _confirm(f"delete job {ids[0]} for ever", yes)
        shell.run(_single(shell, action, ids[0], one))
        return
    bulk = plan(action, replace(which, ids=tuple(ids or ())), **how)
    expected = None
    if dry_run or not yes:
        # Asked between two sessions, so that Ctrl-C is heard at the question; the number holds what was seen to it.
        found = shell.run(_look(shell, bulk))
        if dry_run:
            _show(shell, found)
            return
        if found["jobs"]:
            _confirm(f"{action} {_jobs(found['jobs'])} ({_counts(found['states'])})", yes)
        expected = found["jobs"]
    shell.run(_start(shell, bulk, expected))


async def _single(shell: Shell, action: str, job_id: int, one: One) -> None:
    async with reach(shell) as source:
        document, words = await one(source, job_id)
        if action in ("retry", "again"):
            await source.tell_if_nobody_works()
    shell.answer(document, words)


async def _look(shell: Shell, bulk: Bulk) -> dict[str, Any]:
    async with reach(shell) as source:
        return await source.look(bulk)


async def _start(shell: Shell, bulk: Bulk, expected: int | None) -> None:
    async with reach(shell) as source:
        done = await source.start(bulk, expected)
        if "id" in done or bulk.action in ("retry", "again"):
            await source.tell_if_nobody_works()
    if "id" in done:
        shell.answer(
            done,
            f"{bulk.action}: job {done['id']} goes through {_jobs(done['jobs'])}; `ingestd jobs show {done['id']}` tells how far it is",
        )
        return
    skipped = f", {done['skipped']:,} skipped" if done["skipped"] else ""
    stopping = f", {done['asked']:,} of them asked to stop" if done.get("asked") else ""
    shell.answer(done, f"{bulk.action}: {_jobs(done['changed'])}{stopping}{skipped}" if done["jobs"] else "no jobs match")


def _show(shell: Shell, found: dict[str, Any]) -> None:
    shell.answer(strings_for_ids(found), f"{found['action']} would go through {_jobs(found['jobs'])}")
    if shell.json or not found["jobs"]:
        return
    rows = [[*pair] for pair in found["kinds"].items()]
    shell.answer(None, f"by state: {_counts(found['states'])}")
    shell.answer(None, table(["kind", "jobs"], rows))
    sample = [[str(job["id"]), job["kind"], "partial" if job["partial"] else job["state"], job["created_at"]] for job in found["sample"]]
    shell.answer(None, "\nsuch as")
    shell.answer(None, table(["id", "kind", "state", "created"], sample))


def _confirm(what: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"this would {what}: say --yes to do it, or --dry-run to look first")
    if not typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True):
        raise typer.Exit(1)


def _jobs(count: int) -> str:
    return f"{count:,} job" if count == 1 else f"{count:,} jobs"


def _counts(counts: Any) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())
