"""`rollups`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from ingestd.cli.console import details, table
from ingestd.cli.options import RollupName
from ingestd.cli.session import Session, not_in_service, nothing_in_service, session
from ingestd.cli.shell import Shell
from ingestd.errors import NotFound
from ingestd.rollups import actions, reads
from ingestd.settings import format_duration


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
    nothing = nothing_in_service("rollup", opened.settings.rollups)
    shell.answer({"items": [_document(one) for one in found]}, table(columns, rows) if found else nothing)


async def _status(shell: Shell, name: str) -> None:
    async with session(shell) as opened:
        found = await _require(opened, name)
    shell.answer(_document(found), details(asdict(found)))


async def _refresh(shell: Shell, name: str) -> None:
    async with session(shell) as opened:
        await _require(opened, name)
        job_id = await actions.refresh_now(opened.conn, shell.actor, name)
        await opened.tell_if_nobody_works(shell)
    shell.answer({"job_id": str(job_id)}, f"job {job_id}")


async def _require(opened: Session, name: str) -> reads.RollupStatus:
    try:
        return await reads.rollup_status(opened.conn, name)
    except NotFound:
        if name in opened.settings.rollups:
            raise not_in_service("rollup", name) from None
        raise


def _document(one: reads.RollupStatus) -> dict[str, object]:
    return asdict(one) | {"max_staleness": format_duration(one.max_staleness)}
