"""`enqueue`."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import typer

from ingestd.cli.console import strings_for_ids
from ingestd.cli.options import parse_moment, parse_object, parse_option
from ingestd.cli.shell import Shell, complain, printable
from ingestd.cli.sources.enqueue import reach
from ingestd.errors import InvalidInput, UsageError
from ingestd.jobs.model import State
from ingestd.jobs.options import new_job
from ingestd.settings import parse_duration

FAILED = 1
STILL_OPEN = 75
MOST_RESULT = 2000
EXAMPLE = '{"supplier": "acme"}'


class _Asked(NamedTuple):
    """What is to be enqueued, as it was said."""

    kind: str
    args: dict[str, Any]
    options: dict[str, Any]
    allow_unknown: bool


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command(context_settings={"allow_extra_args": True})
    def enqueue(
        ctx: typer.Context,
        kind: str = typer.Argument(..., metavar="KIND", help="Which handler is to run it."),
        args: str = typer.Option("{}", "--args", metavar="JSON", help="Its arguments, a JSON object."),
        queue: str = typer.Option(None, "--queue", metavar="NAME", help="Lane; default: the kind's."),
        priority: str = typer.Option(None, "--priority", metavar="PRIORITY", help="low, normal, high or -100..100; default: the kind's."),
        run_at: str = typer.Option(None, "--run-at", metavar="TIME", help="Not before: an ISO time, or a duration such as 10m."),
        delay: str = typer.Option(None, "--delay", metavar="DURATION", help="Not before so much later than now."),
        unique_key: str = typer.Option(None, "--unique-key", metavar="KEY", help="While a job with it is open, that one is answered."),
        unique_mode: str = typer.Option(None, "--unique-mode", metavar="MODE", help="What that one is given: skip, replace or reschedule."),
        unique_until: str = typer.Option(None, "--unique-until", metavar="WHEN", help="The key is free at the job's start or finish."),
        unique_for: str = typer.Option(None, "--unique-for", metavar="DURATION", help="The key is held at least so long."),
        max_attempts: int = typer.Option(None, "--max-attempts", metavar="N", help="A first try and its retries; default: the kind's."),
        timeout: str = typer.Option(None, "--timeout", metavar="DURATION", help="An attempt that takes longer is cancelled."),
        hard_timeout: str = typer.Option(None, "--hard-timeout", metavar="DURATION", help="An attempt that takes longer is killed."),
        backoff: str = typer.Option(None, "--backoff", metavar="JSON", help='Waits between attempts: {"base": "1m", "factor": 2}.'),
        key: str = typer.Option(None, "--key", metavar="KEY", help="Jobs with the same key run one at a time, in order."),
        key_strict: bool = typer.Option(False, "--key-strict", help="A job that retries or failed holds up its key."),
        tag: list[str] = typer.Option([], "--tag", metavar="TAG", help="May be repeated."),
        notes: str = typer.Option(None, "--notes", metavar="TEXT", help="For people."),
        metadata: str = typer.Option(None, "--metadata", metavar="JSON", help="For programs, a JSON object."),
        correlation_id: str = typer.Option(None, "--correlation-id", metavar="ID", help="Ties together what belongs together."),
        parent_id: str = typer.Option(None, "--parent-id", metavar="JOB_ID", help="The job that this one belongs to."),
        allow_unknown: bool = typer.Option(False, "--allow-unknown", help="Even if no node knows the kind yet."),
        wait: bool = typer.Option(False, "--wait", help="Wait until the job is final; exit 1 if it did not succeed."),
        wait_timeout: str = typer.Option("", "--wait-timeout", metavar="DURATION", help="Wait no longer than this; then exit 75."),
    ) -> int:
        """Enqueue one job."""
        shell: Shell = ctx.obj
        _refuse_words(kind, ctx.args)
        options: dict[str, Any] = {
            "queue": queue,
            "priority": priority,
            "unique_key": unique_key,
            "unique_mode": unique_mode,
            "unique_until": unique_until,
            "unique_for": unique_for,
            "max_attempts": max_attempts,
            "timeout": timeout,
            "hard_timeout": hard_timeout,
            "key": key,
            "key_strict": key_strict or None,
            "tags": tag or None,
            "notes": notes,
            "correlation_id": shell.correlation_id if correlation_id is None else correlation_id,
            "parent_id": parent_id,
            "backoff": parse_object("--backoff", backoff, '{"base": "1m"}') if backoff is not None else None,
            "metadata": parse_object("--metadata", metadata, '{"ticket": 7}') if metadata is not None else None,
        } | _moment(run_at, delay)
        limit = parse_option("--wait-timeout", parse_duration, wait_timeout).total_seconds() if wait_timeout else None
        try:
            asked = _Asked(kind, parse_object("--args", args, EXAMPLE), options, allow_unknown)
            # What makes no sense is told before anybody is asked.
            new_job(asked.kind, asked.args, asked.options)
            return shell.run(_enqueue(shell, asked, wait or limit is not None, limit))
        except InvalidInput as error:
            raise _named(error) from None


def _refuse_words(kind: str, words: Sequence[str]) -> None:
    """What stands behind the kind was meant as the job's arguments: shown as they are written."""
    if words:
        raise UsageError(
            f'too many arguments: "{" ".join(words)[:200]}"; those of the job go with --args',
            hint=f"ingestd enqueue {shlex.quote(kind)} --args {shlex.quote(_meant(words))}",
        )


def _meant(words: Sequence[str]) -> str:
    text = " ".join(words)
    if isinstance(_read(text), dict):
        return text
    if all("=" in word for word in words):
        return json.dumps({name: _read(value) for name, _, value in (word.partition("=") for word in words)}, ensure_ascii=False)
    return EXAMPLE


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _moment(run_at: str | None, delay: str | None) -> dict[str, Any]:
    """A duration counts by the database's clock, not by this machine's."""
    if run_at is not None:
        try:
            parse_duration(run_at)
        except ValueError:
            return {"run_at": parse_moment("--run-at", run_at), "delay": delay}
        if delay is not None:
            raise InvalidInput("give --run-at or --delay, not both", pointer="--delay")
    return {"delay": run_at if delay is None else delay}


def _named(error: InvalidInput) -> InvalidInput:
    """The option as it is written here, where the message begins with its name."""
    name, _, rest = error.message.partition(": ")
    option = "--" + {"tags": "tag"}.get(name, name).replace("_", "-")
    if not rest or error.pointer != f"/{name}":
        return error
    return InvalidInput(f"{option}: {rest}", pointer=option, hint=error.hint)


async def _enqueue(shell: Shell, job: _Asked, wait: bool, limit_s: float | None) -> int:
    async with reach(shell) as source:
        done = await source.enqueue(job.kind, job.args, job.options, allow_unknown=job.allow_unknown)
        job_id = int(done["id"])
        await source.tell_if_nobody_works()
        if not wait:
            existing = " was there already" + (", and was changed" if done["changed"] else "") if done["existing"] else ""
            shell.answer(done, f"job {job_id}{existing}")
            return 0
        try:
            async with asyncio.timeout(limit_s):
                found = await source.ended(job_id)
        except TimeoutError:
            found = await source.job(job_id)
            shell.answer(strings_for_ids(found), f"job {job_id} is still {found['state']}")
            return STILL_OPEN
        except asyncio.CancelledError:
            complain(f"no longer waiting; job {job_id} stays in the queue")
            raise
    state = "partial" if found["partial"] else found["state"]
    shell.answer(strings_for_ids(found), f"job {job_id} {state}{_result(found)}")
    return 0 if found["state"] == State.SUCCEEDED else FAILED


def _result(found: dict[str, Any]) -> str:
    if found["reason"]:
        return f": {printable(found['reason'])}"
    if found["result"] is None:
        return ""
    text = printable(json.dumps(found["result"], ensure_ascii=False))
    return f": {text[:MOST_RESULT]}{'…' if len(text) > MOST_RESULT else ''}"
