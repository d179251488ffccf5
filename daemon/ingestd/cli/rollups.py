"""`rollups`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from ingestd.cli.console import Shell, session, table
from ingestd.rollups import actions, reads


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
    def status(ctx: typer.Context, name: str) -> None:
        """One rollup with everything known about it."""
        shell: Shell = ctx.obj
        shell.run(_status(shell, name))

    @rollups.command()
    def refresh(ctx: typer.Context, name: str) -> None:
        """Refresh what is dirty now."""
        shell: Shell = ctx.obj
        shell.run(_refresh(shell, name))


async def _list(shell: Shell) -> None:
    async with session(shell) as opened:
        found = await reads.list_rollups(opened.conn)
    rows = [
        [
            one.name,
            one.source,
            one.bucket,
            one.state,
            one.flag,
            f"{one.staleness_seconds:.1f} s",
            one.dirty_ranges,
            one.buckets,
            one.rows,
            one.last_refresh,
            one.reason,
        ]
        for one in found
    ]
    columns = ["name", "source", "bucket", "state", "flag", "staleness", "dirty", "buckets", "rows", "refreshed", "why"]
    shell.answer({"items": [asdict(one) for one in found]}, table(columns, rows) if found else "no rollups are in service")


async def _status(shell: Shell, name: str) -> None:
    async with session(shell) as opened:
        found = asdict(await reads.rollup_status(opened.conn, name))
    rows = [[key, str(value)] for key, value in found.items() if value not in (None, "", (), {})]
    shell.answer(found, table(["", ""], rows))


async def _refresh(shell: Shell, name: str) -> None:
    async with session(shell) as opened:
        job_id = await actions.refresh_now(opened.conn, shell.actor, name)
    shell.answer({"job_id": str(job_id)}, f"job {job_id}")
