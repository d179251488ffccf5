"""`enqueue` and `jobs`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import typer

from ingestd.app.handlers import user_handlers
from ingestd.cli.console import Shell, milliseconds, session, strings_for_ids, table
from ingestd.errors import InvalidInput, NotFound
from ingestd.jobs import actions
from ingestd.jobs.model import FINAL, NewJob, State
from ingestd.jobs.store import reads
from ingestd.jobs.store.queues import publish_missing_kinds
from ingestd.jobs.store.reads import JobFilter
from ingestd.settings import parse_duration, parse_priority

WAIT_EVERY_S = 0.2
FAILED = 1


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""

    @app.command()
    def enqueue(
        ctx: typer.Context,
        kind: str = typer.Argument(..., help="Which handler is to run it."),
        args: str = typer.Option("{}", "--args", metavar="JSON", help="Its arguments, a JSON object."),
        queue: str = typer.Option("", "--queue", help="Lane; default: the kind's."),
        priority: str = typer.Option("", "--priority", help="low, normal, high or -100..100."),
        run_at: str = typer.Option("", "--run-at", help="Not before: an ISO time with offset, or a duration such as 10m."),
        unique_key: str = typer.Option("", "--unique-key", help="While a job with it is open, that one is answered."),
        tag: list[str] = typer.Option([], "--tag", help="May be repeated."),
        wait: bool = typer.Option(False, "--wait", help="Wait until the job is final; exit 1 if it did not succeed."),
    ) -> int:
        """Enqueue one job."""
        shell: Shell = ctx.obj
        job = NewJob(
            kind,
            _object(args),
            queue=queue or None,
            priority=parse_option("--priority", parse_priority, priority) if priority else None,
            unique_key=unique_key or None,
            tags=tuple(tag),
            triggered_by="cli",
        )
        return shell.run(_enqueue(shell, job, run_at, wait))

    jobs = typer.Typer(help="Look at jobs, retry and cancel them.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(jobs, name="jobs")

    @jobs.command("list")
    def list_jobs(
        ctx: typer.Context,
        state: str = typer.Option("", "--state", help="scheduled blocked available running retrying succeeded partial failed …"),
        kind: str = typer.Option("", "--kind"),
        queue: str = typer.Option("", "--queue"),
        tag: str = typer.Option("", "--tag"),
        limit: int = typer.Option(20, "--limit", min=1, max=1000),
    ) -> None:
        """The newest jobs, open and finished."""
        shell: Shell = ctx.obj
        if state and state not in {*State, "partial"}:
            raise InvalidInput(f'"{state}" is not a state of a job: {", ".join([*State, "partial"])}')
        which = JobFilter(state=state or None, kind=kind or None, queue=queue or None, tag=tag or None)
        shell.run(_list(shell, which, limit))

    @jobs.command()
    def show(ctx: typer.Context, job_id: int) -> None:
        """One job with its attempts."""
        shell: Shell = ctx.obj
        shell.run(_show(shell, job_id))

    @jobs.command()
    def retry(ctx: typer.Context, job_id: int) -> None:
        """Bring a failed or cancelled job back into the queue under its own id."""
        shell: Shell = ctx.obj
        shell.run(_retry(shell, job_id))

    @jobs.command()
    def cancel(ctx: typer.Context, job_id: int) -> None:
        """Cancel a waiting job, or ask the node that runs it to."""
        shell: Shell = ctx.obj
        shell.run(_cancel(shell, job_id))


def parse_option(name: str, parse: Any, value: str) -> Any:
    """Parse an option's value; what is wrong with it names the option."""
    try:
        return parse(value)
    except ValueError as error:
        raise InvalidInput(f"{name}: {error}", pointer=name) from None


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"--args is not JSON: {error}", hint="""write it like --args '{"supplier": "acme"}'""") from None
    if not isinstance(value, dict):
        raise InvalidInput("--args must be a JSON object", hint="""write it like --args '{"supplier": "acme"}'""")
    return value


def parse_moment(text: str, now: datetime) -> datetime:
    """An ISO time with offset, or a duration from now."""
    try:
        return now + parse_duration(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f'"{text}" is neither an ISO time such as 2027-01-31T08:00:00+01:00 nor a duration such as 10m') from None
    return moment if moment.tzinfo else moment.astimezone()


async def _enqueue(shell: Shell, job: NewJob, run_at: str, wait: bool) -> int:
    async with session(shell) as opened:
        specs = user_handlers(opened.settings.daemon.handlers, shell.folder)
        await publish_missing_kinds(opened.conn, specs)
        if run_at:
            job = replace(job, run_at=parse_moment(run_at, datetime.now(UTC)))
        job_id = await actions.enqueue_job(opened.conn, shell.actor, job)
        if not wait:
            shell.answer({"id": str(job_id)}, f"job {job_id}")
            return 0
        found = await wait_for(opened.conn, job_id)
    shell.answer(strings_for_ids(found), f"job {job_id} {found['state']}" + (f": {found['reason']}" if found["reason"] else ""))
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
    shell.answer({"items": strings_for_ids(found)}, table(columns, rows))


async def _show(shell: Shell, job_id: int) -> None:
    async with session(shell) as opened:
        found = await reads.show_job(opened.conn, job_id)
    if found is None:
        raise NotFound(f"there is no job {job_id}")
    attempts = found.pop("attempts") or []
    rows = [[name, json.dumps(value, default=str) if isinstance(value, dict | list) else value] for name, value in found.items()]
    rows += [[f"attempt {entry.get('n')}", f"{entry.get('outcome')} {(entry.get('error') or {}).get('message', '')}"] for entry in attempts]
    shown = [[name, str(value) if isinstance(value, int) else value] for name, value in rows if value not in (None, "", "[]", "{}")]
    shell.answer(strings_for_ids(found | {"attempts": attempts}), table(["", ""], shown))


async def _retry(shell: Shell, job_id: int) -> None:
    async with session(shell) as opened:
        await actions.retry_job(opened.conn, shell.actor, job_id)
    shell.answer({"id": str(job_id)}, f"job {job_id} is back in its queue")


async def _cancel(shell: Shell, job_id: int) -> None:
    async with session(shell) as opened:
        done = await actions.cancel_job(opened.conn, shell.actor, job_id)
    shell.answer({"id": str(job_id), "state": done}, f"job {job_id}: {done}")
