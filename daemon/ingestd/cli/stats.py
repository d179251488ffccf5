"""`stats`."""

from __future__ import annotations

import typer

from ingestd.admin.numbers import read_window
from ingestd.cli.console import milliseconds, table
from ingestd.cli.options import parse_option
from ingestd.cli.shell import Shell
from ingestd.cli.sources.stats import reach


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command()
    def stats(
        ctx: typer.Context,
        window: str = typer.Option("24h", "--window", metavar="DURATION", help="How far back, from 1m to 31d."),
    ) -> None:
        """Open jobs by queue and state, and what finished lately."""
        shell: Shell = ctx.obj
        shell.run(_stats(shell, window))


async def _stats(shell: Shell, text: str) -> None:
    window = parse_option("--window", read_window, text)
    async with reach(shell) as source:
        found = await source.numbers(window)
    waiting = [[queue, state, count] for queue, states in sorted(found["open"].items()) for state, count in sorted(states.items())]
    shell.answer(found, table(["queue", "state", "jobs"], waiting) if waiting else "no job is open")
    if not shell.json and found["finished"]:
        rows = [[one["kind"], one["outcome"], one["count"], milliseconds(round(one["mean_ms"]))] for one in found["finished"]]
        shell.answer(None, "")
        shell.answer(None, table(["kind", "outcome", "jobs", "mean"], rows, title=f"finished within {found['window']}"))
