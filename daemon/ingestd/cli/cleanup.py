"""`cleanup`: forget what is not kept, now and by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from ingestd.access.roles import Actor
from ingestd.access.store import record_audit
from ingestd.app import cleanup as cleaning
from ingestd.cli.console import table
from ingestd.cli.session import session
from ingestd.cli.shell import Shell
from ingestd.errors import Refused
from ingestd.facts import Cleared
from ingestd.postgres.session import AT_EASE, connect

Days = Annotated[
    int | None,
    typer.Option(
        "--days",
        min=1,
        max=cleaning.LONGEST_DAYS,
        metavar="N",
        help="Keep so many days of all that jobs left behind, whatever [retention] says.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command()
    def cleanup(
        ctx: typer.Context,
        days: Days = None,
        dry_run: bool = typer.Option(False, "--dry-run", help="Change nothing, and tell exactly what would go."),
    ) -> None:
        """Forget what [retention] does not keep any more.

        Finished jobs, runs, slots, statistics, ended nodes, audit rows. Without --days a partition goes when its whole day (of
        failed jobs and slots: month) is past; with it old rows go to the row. The audit log follows its own setting always.
        """
        shell: Shell = ctx.obj
        shell.run(_cleanup(shell, days, dry_run))


async def _cleanup(shell: Shell, days: int | None, dry_run: bool) -> None:
    async with session(shell) as opened:
        place = opened.location
        sessionless = place.pooled and place.direct_dsn == place.dsn
        if sessionless and not dry_run:
            raise Refused(cleaning.NEEDS_DIRECT_URL)
        conn = await connect(place.direct_dsn, application_name="ingestd:cleanup", settings=AT_EASE, pooled=sessionless)
        try:
            cleared = await cleaning.clean(conn, opened.settings.retention, days=days, dry_run=dry_run)
        finally:
            await conn.close(timeout=5)
        found = cleaning.document(cleared, dry_run)
        if not dry_run:
            actor: Actor = shell.actor
            await record_audit(opened.conn, actor, "clean up", "database", "ingestd", {"days": days, "rows": found["rows"]})
    columns = ["what", "rows", "partitions", "freed"]
    rows = [[one.what, one.rows, _partitions(one), _bytes(one.bytes)] for one in cleared]
    total = f"{found['rows']:,} rows {'would go' if dry_run else 'gone'}, {_bytes(found['bytes'])} given back"
    shell.answer(found, table(columns, rows, title=total))


def _partitions(one: Cleared) -> str:
    names = ", ".join(one.partitions) if len(one.partitions) <= 2 else f"{one.partitions[0]} … {one.partitions[-1]} ({len(one.partitions)})"
    busy = f"in use, next time: {', '.join(one.postponed)}" if one.postponed else ""
    return "; ".join(filter(None, (names, busy)))


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
