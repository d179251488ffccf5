"""`rollups`."""

from __future__ import annotations

import typer

from ingestd.cli.console import details, table
from ingestd.cli.options import RollupName
from ingestd.cli.shell import Shell
from ingestd.cli.sources.rollups import reach


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""
    rollups = typer.Typer(help="Look at rollups and refresh them.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(rollups, name="rollups")

    @rollups.command("list")
    def list_rollups(ctx: typer.Context) -> None:
        """All rollups and how fresh they are."""
        shell: Shell = ctx.obj
        shell.run(_list(shell))

    @rollups.command()
    def status(ctx: typer.Context, name: RollupName) -> None:
        """One rollup with everything known about it."""
        shell: Shell = ctx.obj
        shell.run(_status(shell, name))

    @rollups.command()
    def refresh(ctx: typer.Context, name: RollupName) -> None:
        """Refresh what is dirty now."""
        shell: Shell = ctx.obj
        shell.run(_refresh(shell, name))


async def _list(shell: Shell) -> None:
    async with reach(shell) as source:
        found = await source.rollups()
    rows = [
        [
            one["name"],
            one["source"],
            one["bucket"],
            one["state"],
            one["flag"],
            f"{one['staleness_seconds']:.1f} s",
            one["dirty_ranges"],
            one["buckets"],
            one["rows"],
            one["last_refresh"],
            one["reason"],
        ]
        for one in found
    ]
    columns = ["name", "source", "bucket", "state", "flag", "staleness", "dirty", "buckets", "rows", "refreshed", "why"]
    shell.answer({"items": found}, table(columns, rows) if found else source.nothing)


async def _status(shell: Shell, name: str) -> None:
    async with reach(shell) as source:
        found = await source.status(name)
    shell.answer(found, details(found))


async def _refresh(shell: Shell, name: str) -> None:
    async with reach(shell) as source:
        job_id = await source.refresh(name)
        await source.tell_if_nobody_works()
    shell.answer({"job_id": job_id}, f"job {job_id}")
