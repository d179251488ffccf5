"""`kinds`."""

from __future__ import annotations

import typer

from ingestd.cli.console import table
from ingestd.cli.records import add_records
from ingestd.cli.shell import Shell
from ingestd.cli.sources.kinds import reach
from ingestd.settings import priority_name


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""
    kinds = typer.Typer(help="Look at kinds of job and how they have gone.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(kinds, name="kinds")

    @kinds.command("list")
    def list_kinds(ctx: typer.Context) -> None:
        """Kinds of job that nodes have published, with defaults."""
        shell: Shell = ctx.obj
        shell.run(_list(shell))

    add_records(kinds, "kind")


async def _list(shell: Shell) -> None:
    async with reach(shell) as source:
        found = await source.kinds()
    rows = [[one["name"], one["queue"], priority_name(one["priority"]), one["max_attempts"], one["published_at"]] for one in found]
    columns = ["kind", "queue", "priority", "attempts", "published"]
    shell.answer({"items": found}, table(columns, rows) if found else "no node has run here yet: start one with `ingestd run`")
