"""`schedules`: looking at them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from ingestd.cli import schedule_actions, schedule_definitions
from ingestd.cli.console import details, milliseconds, strings_for_ids, table
from ingestd.cli.options import ScheduleName, parse_moment
from ingestd.cli.records import add_records
from ingestd.cli.shell import Shell
from ingestd.cli.sources.schedules import reach
from ingestd.errors import InvalidInput
from ingestd.schedule import preview
from ingestd.schedule.rules import Upcoming, in_zone, upcoming
from ingestd.schedule.zones import find_zone

NEXT_SHOWN = 3


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""
    schedules = typer.Typer(
        help="Look at schedules and slots; trigger, pause, skip, make, edit.", no_args_is_help=True, rich_markup_mode=None
    )
    app.add_typer(schedules, name="schedules")

    @schedules.command("list")
    def list_schedules(ctx: typer.Context) -> None:
        """All schedules with their next and last slot."""
        shell: Shell = ctx.obj
        shell.run(_list(shell))

    @schedules.command()
    def show(ctx: typer.Context, name: ScheduleName) -> None:
        """One schedule: its keys, why it is paused, what is next."""
        shell: Shell = ctx.obj
        shell.run(_show(shell, name))

    @schedules.command("next")
    def next_slots(
        ctx: typer.Context,
        name: ScheduleName,
        count: int = typer.Option(10, "--count", metavar="N", min=1, max=preview.MOST, help=f"How many slots, 1 to {preview.MOST}."),
        start: str = typer.Option("", "--from", metavar="TIME", help="Slots after this ISO time, in the schedule's zone; default: now."),
    ) -> None:
        """The slots to come, transitions of the time zone marked."""
        shell: Shell = ctx.obj
        shell.run(_next(shell, name, count, start))

    @schedules.command()
    def slots(
        ctx: typer.Context,
        name: ScheduleName,
        state: str = typer.Option("", "--state", metavar="STATE", help=f"One or several with commas: {' '.join(preview.SLOT_STATES)}."),
        limit: int = typer.Option(30, "--limit", metavar="N", min=1, max=1000, help="How many, 1 to 1000."),
        before: str = typer.Option("", "--before", metavar="TIME", help="Only slots due before, for the next page."),
    ) -> None:
        """Its slots, newest first: what became of each, and why."""
        shell: Shell = ctx.obj
        shell.run(_slots(shell, name, state, limit, before))

    @schedules.command()
    def downtimes(
        ctx: typer.Context,
        limit: int = typer.Option(30, "--limit", metavar="N", min=1, max=1000, help="How many, 1 to 1000."),
        before: int = typer.Option(None, "--before", metavar="ID", min=1, help="Only older ones, for the next page."),
    ) -> None:
        """Times in which nothing fired slots; what that cost."""
        shell: Shell = ctx.obj
        shell.run(_downtimes(shell, limit, before))

    schedule_actions.add_to(schedules)
    schedule_definitions.add_to(schedules)
    add_records(schedules, "schedule")


async def _list(shell: Shell) -> None:
    async with reach(shell) as source:
        found = await source.schedules()
    rows = [
        [
            one["name"],
            f"{one['rule']} ({one['timezone']})",
            f"{one['target']['type']} {one['target']['name']}",
            _standing(one),
            one["next_due_at"],
            (one["last_slot"] or {}).get("due_at"),
            _outcome(one["last_slot"]) if one["last_slot"] else None,
            one["owner"],
            one["problem"],
        ]
        for one in found
    ]
    for one in found:
        del one["spec"]
    columns = ["name", "rule", "target", "is", "next", "last", "slot", "owner", "problem"]
    shell.answer({"items": strings_for_ids(found)}, table(columns, rows) if found else source.nothing)


def _standing(schedule: dict[str, Any]) -> str:
    if not schedule["enabled"]:
        return "off"
    if schedule["paused"]:
        until = schedule["paused_until"]
        end = f" until {until.astimezone():%Y-%m-%d %H:%M}" if until else ""
        why = f": {schedule['pause_reason']}" if schedule["pause_reason"] else ""
        return f"paused{end} by {schedule['paused_by']}{why}"
    if schedule["skip_at"]:
        return f"on, skips {schedule['skip_at'].astimezone():%Y-%m-%d %H:%M}"
    return "on"


def _outcome(slot: dict[str, Any]) -> str:
    """A slot and its job in a few words: `fired, failed`; the state alone where there is no job."""
    words = [str(slot["state"])]
    if slot["job_state"]:
        words.append("partial" if slot["job_partial"] else str(slot["job_state"]))
    return ", ".join(words)


async def _show(shell: Shell, name: str) -> None:
    async with reach(shell) as source:
        found = await source.schedule(name)
        ahead = await source.next_slots(name, NEXT_SHOWN) if not found["problem"] else []
    hidden = ("spec", "last_slot", "paused", "paused_by", "paused_until", "pause_reason", "skip_by", "skip_reason", "enabled")
    facts = {key: value for key, value in found.items() if key not in hidden}
    last = found["last_slot"]
    if last is not None:
        why = f" ({last['reason']})" if last["reason"] else ""
        job = f", job {last['job_id']}" if last["job_id"] else ""
        facts["last_slot"] = f"{last['due_at'].astimezone():%Y-%m-%d %H:%M:%S} {_outcome(last)}{job}{why}"
    if found["skip_at"]:
        why = f": {found['skip_reason']}" if found["skip_reason"] else ""
        facts["skip_at"] = f"{found['skip_at'].astimezone():%Y-%m-%d %H:%M:%S}, by {found['skip_by']}{why}"
    facts["target"] = f"{found['target']['type']} {found['target']['name']}"
    facts = {"name": facts.pop("name"), "is": _standing(found)} | facts
    facts |= {f"next {number}": _told(slot) for number, slot in enumerate(ahead, start=1)}
    shell.answer(strings_for_ids(found), details(facts))


def _told(slot: Upcoming) -> str:
    return f"{slot.at:%a %Y-%m-%d %H:%M:%S %z}" + (f", {slot.note}" if slot.note else "")


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
    declared = shell.settings().schedules.get(name) if shell.address is None else None
    if declared is not None:
        # Its rule is here: no database is needed to tell what it means.
        since = datetime.now(UTC) if moment is None else in_zone(moment, find_zone(declared.timezone))
        return upcoming(declared.parsed_rule(), since, count)
    async with reach(shell) as source:
        return await source.next_slots(name, count, moment)


async def _slots(shell: Shell, name: str, state: str, limit: int, before: str) -> None:
    states = preview.read_slot_states(state, "--state")
    moment = parse_moment("--before", before) if before else None
    async with reach(shell) as source:
        found, more = await source.slots(name, states, moment, limit)
    rows = [
        [
            slot["due_at"],
            slot["state"],
            str(slot["job_id"]) if slot["job_id"] else None,
            "partial" if slot["job_partial"] else slot["job_state"],
            milliseconds(slot["job_duration_ms"]),
            slot["triggered_by"],
            _remark(slot),
        ]
        for slot in found
    ]
    columns = ["due", "state", "job", "outcome", "took", "by", "why"]
    document = {"items": strings_for_ids(found), "next_before": found[-1]["due_at"].isoformat() if more else None}
    shell.answer(document, table(columns, rows) if found else "no slots")


def _remark(slot: dict[str, Any]) -> str:
    said = [slot["reason"]] if slot["reason"] else []
    if slot["slots"] > 1:
        said.insert(0, f"{slot['slots']:,} slots since {slot['first_due_at'].astimezone():%Y-%m-%d %H:%M:%S}")
    if slot["slow_at"]:
        said.append("slow")
    return "; ".join(said)


async def _downtimes(shell: Shell, limit: int, before: int | None) -> None:
    async with reach(shell) as source:
        found, more = await source.downtimes(before, limit)
    rows = [
        [one["began_at"], one["ended_at"], _lasted(one["ended_at"] - one["began_at"]), one["schedules"], one["missed"], one["late"]]
        for one in found
    ]
    columns = ["from", "to", "lasted", "schedules", "missed", "late"]
    document = {"items": strings_for_ids(found), "next_before": str(found[-1]["id"]) if more else None}
    shell.answer(document, table(columns, rows) if found else "no downtime is known")


def _lasted(span: timedelta) -> timedelta:
    return timedelta(seconds=round(span.total_seconds()))
