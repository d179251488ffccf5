"""`schedules`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import typer

from ingestd.cli.console import strings_for_ids, table
from ingestd.cli.options import ScheduleName
from ingestd.cli.session import Session, not_in_service, nothing_in_service, session
from ingestd.cli.shell import Shell
from ingestd.errors import InvalidInput, NotFound
from ingestd.schedule import actions, preview
from ingestd.schedule.rules import Upcoming, in_zone, parse_rule, upcoming
from ingestd.schedule.store import reads
from ingestd.schedule.zones import find_zone

T = TypeVar("T")


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""
    schedules = typer.Typer(help="Look at schedules, see what is next, fire one now.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(schedules, name="schedules")

    @schedules.command("list")
    def list_schedules(ctx: typer.Context) -> None:
        """All schedules with their next and last slot."""
        shell: Shell = ctx.obj
        shell.run(_list(shell))

    @schedules.command("next")
    def next_slots(
        ctx: typer.Context,
        name: ScheduleName,
        count: int = typer.Option(10, "--count", metavar="N", min=1, max=1000, help="How many slots, 1 to 1000."),
        start: str = typer.Option("", "--from", metavar="TIME", help="Slots after this ISO time; default: now."),
    ) -> None:
        """The slots to come, transitions of the time zone marked."""
        shell: Shell = ctx.obj
        shell.run(_next(shell, name, count, start))

    @schedules.command()
    def trigger(
        ctx: typer.Context, name: ScheduleName, reason: str = typer.Option("", "--reason", metavar="TEXT", help="Kept with the job.")
    ) -> None:
        """Fire a schedule now."""
        shell: Shell = ctx.obj
        shell.run(_trigger(shell, name, reason or None))

    @schedules.command()
    def pause(ctx: typer.Context, name: ScheduleName) -> None:
        """Let a schedule's slots pass until it is resumed."""
        shell: Shell = ctx.obj
        shell.run(_pause(shell, name, paused=True))

    @schedules.command()
    def resume(ctx: typer.Context, name: ScheduleName) -> None:
        """Fire a paused schedule's slots again."""
        shell: Shell = ctx.obj
        shell.run(_pause(shell, name, paused=False))


async def _list(shell: Shell) -> None:
    async with session(shell) as opened:
        found = await reads.list_schedules(opened.conn)
    rows = [
        [
            one["name"],
            f"{one['rule']} ({one['timezone']})",
            f"{one['target']['type']} {one['target']['name']}",
            "paused" if one["paused"] else "on" if one["enabled"] else "off",
            one["next_due_at"],
            (one["last_slot"] or {}).get("due_at"),
            (one["last_slot"] or {}).get("state"),
            one["problem"],
        ]
        for one in found
    ]
    columns = ["name", "rule", "target", "is", "next", "last", "slot", "problem"]
    nothing = nothing_in_service("schedule", opened.settings.schedules)
    shell.answer({"items": strings_for_ids(found)}, table(columns, rows) if found else nothing)


async def _next(shell: Shell, name: str, count: int, start: str) -> None:
    moment: datetime | None = None
    if start:
        try:
            moment = datetime.fromisoformat(start.strip())
        except ValueError:
            raise InvalidInput(f'--from: "{start}" is not an ISO time such as 2027-03-28T00:00:00', pointer="--from") from None
    try:
        found = await _upcoming(shell, name, count, moment)
    except OverflowError:
        raise InvalidInput(f'--from: "{start}" is beyond the calendar', pointer="--from") from None
    document = [{"at": slot.at.isoformat(), "note": slot.note} for slot in found]
    rows = [[slot.at.strftime("%a %Y-%m-%d %H:%M:%S %z"), slot.note or " "] for slot in found]
    shell.answer(document, table(["at", "note"], rows) if found else "no slots to come")


async def _upcoming(shell: Shell, name: str, count: int, moment: datetime | None) -> list[Upcoming]:
    declared = shell.settings().schedules.get(name)
    if declared is not None:
        # Its rule is here: no database is needed to tell what it means.
        since = datetime.now(UTC) if moment is None else in_zone(moment, find_zone(declared.timezone))
        return upcoming(parse_rule(declared.rule, declared.timezone), since, count)
    async with session(shell) as opened:
        return await preview.next_slots(opened.conn, name, count, moment)


async def _trigger(shell: Shell, name: str, reason: str | None) -> None:
    async with session(shell) as opened:
        job_id = await _in_service(opened, name, lambda: actions.trigger(opened.conn, shell.actor, name, reason))
        await opened.tell_if_nobody_works(shell)
    shell.answer({"job_id": str(job_id)}, f"job {job_id}")


async def _pause(shell: Shell, name: str, *, paused: bool) -> None:
    act = actions.pause if paused else actions.resume
    async with session(shell) as opened:
        changed = await _in_service(opened, name, lambda: act(opened.conn, shell.actor, name))
    word = "paused" if paused else "on"
    shell.answer({"name": name, "state": word}, f"{name} is {word}" + ("" if changed else " already"))


async def _in_service(opened: Session, name: str, act: Callable[[], Awaitable[T]]) -> T:
    try:
        return await act()
    except NotFound:
        if name in opened.settings.schedules:
            raise not_in_service("schedule", name) from None
        raise
