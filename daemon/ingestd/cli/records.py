"""`history`, `statistics`, `last` and `status`, in the same words for schedules, imports, workflows and kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from ingestd.admin import records
from ingestd.admin.records import Kept
from ingestd.cli.console import details, error_line, milliseconds, table, traceback_lines
from ingestd.cli.shell import Shell
from ingestd.cli.sources.records import reach
from ingestd.errors import InvalidInput, UsageError
from ingestd.jobs.filters import TRIGGERS, check_trigger
from ingestd.jobs.records import DAYS, MOST_DAYS, STATES

_RUNS: Mapping[Kept, str] = {"schedule": "slots", "import": "loads", "workflow": "runs", "kind": "jobs"}
UNHEALTHY = 1
# Kept out of the table: what the first lines of it say already, or what only programs read.
_NOT_IN_TABLE = ("type", "running", "last_run", "timeline", "by_state", "duration_ms", "totals", "problems")


def add_records(group: typer.Typer, what: Kept) -> None:
    """Enter the four commands into a group of others."""
    runs = _RUNS[what]
    of = typer.Argument(metavar="NAME", help=f"A {what}." if what in ("kind", "schedule") else f"A declared {what}.")

    @group.command(help=f"Its {runs}, newest first.")
    def history(
        ctx: typer.Context,
        name: str = of,
        state: str = typer.Option("", "--state", metavar="STATE", help=f"{' '.join(STATES)}; several with commas."),
        triggered_by: str = typer.Option("", "--triggered-by", metavar="WORD", help=f"{' '.join(TRIGGERS)}."),
        limit: int = typer.Option(20, "--limit", metavar="N", min=1, max=1000, help="How many, 1 to 1000."),
        before: str = typer.Option("", "--before", metavar="ID", help="Only those before this one, for the next page."),
    ) -> None:
        shell: Shell = ctx.obj
        shell.run(_history(shell, what, name, state, triggered_by or None, limit, before))

    @group.command(help=f"Success rate, durations and a timeline of its {runs}.")
    def statistics(
        ctx: typer.Context,
        name: str = of,
        days: int = typer.Option(DAYS, "--days", metavar="N", min=1, max=MOST_DAYS, help=f"How many, 1 to {MOST_DAYS}, today included."),
        timezone: str = typer.Option("", "--timezone", metavar="ZONE", help="In which days begin; default: the schedule's own, or UTC."),
    ) -> None:
        shell: Shell = ctx.obj
        shell.run(_statistics(shell, what, name, days, timezone or None))

    @group.command(help=f"The newest of its {runs}, of the good ones, of the bad ones.")
    def last(ctx: typer.Context, name: str = of) -> None:
        shell: Shell = ctx.obj
        shell.run(_last(shell, what, name))

    @group.command(help="What it does now, what is next; exit 1 if it is unhealthy.")
    def status(ctx: typer.Context, name: str = of) -> int:
        shell: Shell = ctx.obj
        return shell.run(_status(shell, what, name))


async def _history(shell: Shell, what: Kept, name: str, state: str, triggered_by: str | None, limit: int, before: str) -> None:
    check_trigger(triggered_by, "--triggered-by")
    try:
        states = records.read_states(state or None)
        async with reach(shell) as source:
            found, more = await source.history(what, name, states, triggered_by, before, limit)
    except UsageError as error:
        raise _worded(error) from None
    document = {"items": found, "next": found[-1]["id"] if more else None}
    columns = ["id", "state", "due", "started", "finished", "took", "by", "job", "about", "why"]
    shell.answer(document, table(columns, [_row(run) for run in found]) if found else f"no {_RUNS[what]}")


def _row(run: Mapping[str, Any]) -> list[Any]:
    cells = [run[name] for name in ("id", "state", "due_at", "started_at", "finished_at")]
    return [*cells, milliseconds(run["duration_ms"]), *[run[name] for name in ("triggered_by", "job_id", "subject", "reason")]]


def _worded(error: UsageError) -> InvalidInput:
    """The same problem, in the words of the command line."""
    return InvalidInput(error.message.replace('"state" cannot be', "--state:").replace('"timezone":', "--timezone:"), hint=error.hint)


async def _statistics(shell: Shell, what: Kept, name: str, days: int, timezone: str | None) -> None:
    try:
        async with reach(shell) as source:
            found = await source.statistics(what, name, days, timezone)
    except UsageError as error:
        raise _worded(error) from None
    rate = found["success_rate"]
    sign = "" if found["duration_ms"]["exact"] else "≤ "
    took = {word: value for word, value in found["duration_ms"].items() if word != "exact" and value is not None}
    summary = {word: value for word, value in found.items() if word not in _NOT_IN_TABLE} | {
        "success_rate": None if rate is None else f"{rate:.2%}",
        "states": _states(found),
        "took": ", ".join(f"{word} {'' if word == 'mean' else sign}{milliseconds(round(value))}" for word, value in took.items()),
        "records": ", ".join(f"{number:,} {word}" for word, number in (found["totals"] or {}).items()),
    }
    shell.answer(found, details(summary))
    rows = [_day_row(day) for day in found["timeline"] if day["runs"]]
    if rows and not shell.json:
        shell.answer(None, table(["day", "runs", "good", "took", "states"], rows))


def _day_row(day: Mapping[str, Any]) -> list[Any]:
    good = None if day["success_rate"] is None else f"{day['success_rate']:.0%}"
    took = None if day["mean_ms"] is None else milliseconds(round(day["mean_ms"]))
    return [day["date"], day["runs"], good, took, _states(day)]


def _states(counted: Mapping[str, Any]) -> str:
    return ", ".join(f"{number:,} {state}" for state, number in counted["by_state"].items())


async def _last(shell: Shell, what: Kept, name: str) -> None:
    async with reach(shell) as source:
        found = await source.last(what, name)
    run = found["run"]
    good, bad = found["last_success"], found["last_failure"]
    if run is None:
        shell.answer(found, f"no {_RUNS[what]}")
        return
    newest = {key: value for key, value in run.items() if key != "duration_ms"} | {"took": milliseconds(run["duration_ms"])}
    newest["error"] = error_line(run["error"])
    shell.answer(found, details(newest | {"last_success": good and good["id"], "last_failure": bad and bad["id"]}))
    if not shell.json:
        shell.answer(None, traceback_lines(run["error"]))


async def _status(shell: Shell, what: Kept, name: str) -> int:
    async with reach(shell) as source:
        found = await source.status(what, name)
    run = found["last_run"]
    more = {
        "problems": "; ".join(found["problems"]),
        "last": run and f"{run['id']} {run['state']}" + (f": {run['reason']}" if run["reason"] else ""),
    }
    shell.answer(found, details({key: value for key, value in found.items() if key not in _NOT_IN_TABLE} | more))
    return 0 if found["healthy"] else UNHEALTHY
