"""`enqueue` and `jobs`."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import typer

from ingestd.app.handlers import user_handlers
from ingestd.cli.console import details, milliseconds, strings_for_ids, table
from ingestd.cli.options import JobId, parse_moment, parse_object, parse_option
from ingestd.cli.session import session
from ingestd.cli.shell import Shell, complain, printable
from ingestd.errors import InvalidInput, NotFound
from ingestd.jobs import actions
from ingestd.jobs.model import FINAL, NewJob, State
from ingestd.jobs.store import reads
from ingestd.jobs.store.queues import kind_known, publish_missing_kinds, queue_exists, queues
from ingestd.jobs.store.reads import JobFilter
from ingestd.settings import did_you_mean, parse_priority

WAIT_EVERY_S = 0.2
FAILED = 1
STATES = [*State, "partial"]


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""

    @app.command()
    def enqueue(
        ctx: typer.Context,
        kind: str = typer.Argument(..., metavar="KIND", help="Which handler is to run it."),
        args: str = typer.Option("{}", "--args", metavar="JSON", help="Its arguments, a JSON object."),
        queue: str = typer.Option("", "--queue", metavar="NAME", help="Lane; default: the kind's."),
        priority: str = typer.Option("", "--priority", metavar="PRIORITY", help="low, normal, high or -100..100; default: the kind's."),
        run_at: str = typer.Option("", "--run-at", metavar="TIME", help="Not before: an ISO time, or a duration such as 10m."),
        unique_key: str = typer.Option("", "--unique-key", metavar="KEY", help="While a job with it is open, that one is answered."),
        tag: list[str] = typer.Option([], "--tag", metavar="TAG", help="May be repeated."),
        allow_unknown: bool = typer.Option(False, "--allow-unknown", help="Even if no node knows the kind yet."),
        wait: bool = typer.Option(False, "--wait", help="Wait until the job is final; exit 1 if it did not succeed."),
    ) -> int:
        """Enqueue one job."""
        shell: Shell = ctx.obj
        job = NewJob(
            kind,
            parse_object("--args", args, '{"supplier": "acme"}'),
            queue=queue or None,
            priority=parse_option("--priority", parse_priority, priority) if priority else None,
            run_at=parse_moment("--run-at", run_at) if run_at else None,
            unique_key=unique_key or None,
            tags=tuple(tag),
            triggered_by="cli",
        )
        return shell.run(_enqueue(shell, job, allow_unknown, wait))

    jobs = typer.Typer(help="Look at jobs, retry and cancel them.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(jobs, name="jobs")

    @jobs.command("list")
    def list_jobs(
        ctx: typer.Context,
        state: str = typer.Option("", "--state", metavar="STATE", help=" ".join(STATES)),
        kind: str = typer.Option("", "--kind", metavar="KIND", help="Only of this kind."),
        queue: str = typer.Option("", "--queue", metavar="NAME", help="Only of this queue."),
        tag: str = typer.Option("", "--tag", metavar="TAG", help="Only with this tag."),
        limit: int = typer.Option(20, "--limit", metavar="N", min=1, max=1000, help="How many, 1 to 1000."),
    ) -> None:
        """The newest jobs, open and finished."""
        shell: Shell = ctx.obj
        if state and state not in STATES:
            raise InvalidInput(f'--state: "{state}" is none of {", ".join(STATES)}{did_you_mean(state, STATES)}', pointer="--state")
        which = JobFilter(states=(state,) if state else (), kind=kind or None, queue=queue or None, tag=tag or None)
        shell.run(_list(shell, which, limit))

    @jobs.command()
    def show(ctx: typer.Context, job_id: JobId) -> None:
        """One job with its attempts."""
        shell: Shell = ctx.obj
        shell.run(_show(shell, job_id))

    @jobs.command()
    def retry(ctx: typer.Context, job_id: JobId) -> None:
        """Bring a failed or cancelled job back under its own id."""
        shell: Shell = ctx.obj
        shell.run(_retry(shell, job_id))

    @jobs.command()
    def cancel(ctx: typer.Context, job_id: JobId) -> None:
        """Cancel a waiting job, or ask the node that runs it to."""
        shell: Shell = ctx.obj
        shell.run(_cancel(shell, job_id))


async def _enqueue(shell: Shell, job: NewJob, allow_unknown: bool, wait: bool) -> int:
    async with session(shell) as opened:
        if not allow_unknown and not await kind_known(opened.conn, job.kind):
            # no node has run yet, but the code may be at hand
            await publish_missing_kinds(opened.conn, user_handlers(opened.settings.daemon.handlers, shell.folder))
        job_id = await actions.enqueue_job(opened.conn, shell.actor, job, allow_unknown=allow_unknown)
        await opened.tell_if_nobody_works(shell)
        if not wait:
            shell.answer({"id": str(job_id)}, f"job {job_id}")
            return 0
        try:
            found = await wait_for(opened.conn, job_id)
        except asyncio.CancelledError:
            complain(f"no longer waiting; job {job_id} stays in the queue")
            raise
    state = "partial" if found["partial"] else found["state"]
    shell.answer(strings_for_ids(found), f"job {job_id} {state}" + (f": {printable(found['reason'])}" if found["reason"] else ""))
    return 0 if found["state"] == State.SUCCEEDED else FAILED


async def wait_for(conn: asyncpg.Connection, job_id: int) -> dict[str, Any]:
    """Wait until a job is final and return it."""
    while True:
        found = await reads.show_job(conn, job_id)
        if found is None:
            raise NotFound(f"job {job_id} has disappeared")
        if State(found["state"]) in FINAL:
            return found
        await asyncio.sleep(WAIT_EVERY_S)


async def _list(shell: Shell, which: JobFilter, limit: int) -> None:
    async with session(shell) as opened:
        if which.queue and not await queue_exists(opened.conn, which.queue):
            known = [row["name"] for row in await queues(opened.conn)]
            raise NotFound(f'there is no queue "{which.queue}"{did_you_mean(which.queue, known)}')
        found = await reads.list_jobs(opened.conn, which, limit)
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
    shell.answer({"items": strings_for_ids(found)}, table(columns, rows) if found else "no jobs")


async def _show(shell: Shell, job_id: int) -> None:
    async with session(shell) as opened:
        found = await reads.show_job(opened.conn, job_id)
    if found is None:
        raise NotFound(f"there is no job {job_id}")
    facts = found | {"attempts": None, "error": _sentence(found["error"])}
    for number, entry in enumerate(found["attempts"] or [], start=1):
        facts[f"attempt {entry.get('n', number)}"] = f"{entry.get('outcome')} {_sentence(entry.get('error')) or ''}".rstrip()
    shell.answer(strings_for_ids(found), details(facts))
    if not shell.json and (found["error"] or {}).get("traceback"):
        shell.answer(None, "\n" + "\n".join(printable(line) for line in found["error"]["traceback"].splitlines()))


def _sentence(error: dict[str, Any] | None) -> str | None:
    return f"{error.get('class')}: {error.get('message')}" if error else None


async def _retry(shell: Shell, job_id: int) -> None:
    async with session(shell) as opened:
        await actions.retry_job(opened.conn, shell.actor, job_id)
        await opened.tell_if_nobody_works(shell)
    shell.answer({"id": str(job_id)}, f"job {job_id} is back in its queue")


async def _cancel(shell: Shell, job_id: int) -> None:
    async with session(shell) as opened:
        done = await actions.cancel_job(opened.conn, shell.actor, job_id)
    shell.answer({"id": str(job_id), "state": done}, f"job {job_id}: {done}")
