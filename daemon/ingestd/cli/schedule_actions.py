"""`schedules trigger|pause|resume|skip-next`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from ingestd.cli.options import ScheduleName, parse_option
from ingestd.cli.shell import Shell, printable
from ingestd.cli.sources.schedules import reach
from ingestd.errors import InvalidInput
from ingestd.settings import parse_duration

MOST_REASON = 1000
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept with the slot and in the audit log.")]


def add_to(schedules: typer.Typer) -> None:
    """Enter the commands."""

    @schedules.command()
    def trigger(ctx: typer.Context, name: ScheduleName, reason: Reason = "") -> None:
        """Start what a schedule starts now, apart from its slots."""
        shell: Shell = ctx.obj
        shell.run(_trigger(shell, name, check_reason(reason)))

    @schedules.command()
    def pause(
        ctx: typer.Context,
        name: ScheduleName,
        until: str = typer.Option(
            "", "--until", metavar="TIME", help="Until this ISO time, in the schedule's zone unless it has an offset."
        ),
        lasting: str = typer.Option("", "--for", metavar="DURATION", help="For so long, such as 2h or 3d."),
        reason: Reason = "",
    ) -> None:
        """Skip its slots, until a moment or until it is resumed."""
        shell: Shell = ctx.obj
        shell.run(_pause(shell, name, until, lasting, check_reason(reason)))

    @schedules.command()
    def resume(
        ctx: typer.Context,
        name: ScheduleName,
        from_now: bool = typer.Option(False, "--from-now", help="Go back to now where the database's clock has been ahead."),
    ) -> None:
        """Fire a paused schedule's slots again."""
        shell: Shell = ctx.obj
        shell.run(_resume(shell, name, from_now))

    @schedules.command("skip-next")
    def skip_next(
        ctx: typer.Context,
        name: ScheduleName,
        reason: Reason = "",
        undo: bool = typer.Option(False, "--undo", help="Let it fire after all."),
    ) -> None:
        """Skip a schedule's next slot, once."""
        shell: Shell = ctx.obj
        shell.run(_unskip(shell, name) if undo else _skip_next(shell, name, check_reason(reason)))


def check_reason(text: str) -> str | None:
    """A reason as it can be kept; None where none was given.

    Raises:
        InvalidInput: it is too long, or cannot be stored.
    """
    if len(text) > MOST_REASON:
        raise InvalidInput(f"--reason: at most {MOST_REASON:,} characters", pointer="--reason")
    return text.strip() or None


async def _trigger(shell: Shell, name: str, reason: str | None) -> None:
    async with reach(shell) as source:
        job_id = await source.trigger(name, reason)
        await source.tell_if_nobody_works()
    shell.answer({"job_id": job_id}, f"job {job_id}")


async def _pause(shell: Shell, name: str, until: str, lasting: str, reason: str | None) -> None:
    if until and lasting:
        raise InvalidInput("give --until or --for, not both", pointer="--for")
    moment = parse_option("--until", _moment, until) if until else None
    span = parse_option("--for", parse_duration, lasting) if lasting else None
    async with reach(shell) as source:
        found, changed = await source.pause(name, reason, moment, span)
    end, why = found["paused_until"], found["pause_reason"]
    told = f"{name} is paused" + (f" until {end.astimezone():%Y-%m-%d %H:%M:%S %z}" if end else "") + ("" if changed else " already")
    shell.answer({"name": name, "state": "paused", "until": end, "reason": why}, printable(told))


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f'"{text}" is not an ISO time such as 2027-03-28T06:00; write --for 2h for a while') from None


async def _resume(shell: Shell, name: str, from_now: bool) -> None:
    async with reach(shell) as source:
        changed = await source.resume(name, from_now)
    shell.answer({"name": name, "state": "on"}, f"{name} is on" + ("" if changed else " already"))


async def _skip_next(shell: Shell, name: str, reason: str | None) -> None:
    async with reach(shell) as source:
        due_at = await source.skip_next(name, reason)
    shell.answer({"name": name, "skip_at": due_at}, f"{name} skips its slot of {due_at.astimezone():%Y-%m-%d %H:%M:%S %z}")


async def _unskip(shell: Shell, name: str) -> None:
    async with reach(shell) as source:
        changed = await source.unskip(name)
    shell.answer({"name": name, "skip_at": None}, f"{name} skips nothing" + ("" if changed else ", and did not before"))
