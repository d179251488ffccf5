"""`import`, `imports` and `loads`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import typer

from ingestd.app import inline
from ingestd.cli.console import details, milliseconds, strings_for_ids, table
from ingestd.cli.options import ImportName, LoadId, parse_object, parse_option
from ingestd.cli.records import add_records
from ingestd.cli.session import session
from ingestd.cli.shell import Shell, complain, printable
from ingestd.cli.sources.imports import reach
from ingestd.errors import Conflict, InvalidInput, NotFound
from ingestd.imports import actions
from ingestd.imports.store import reads
from ingestd.settings import did_you_mean, parse_priority

STATUSES = ("pending", "succeeded", "partial", "failed", "skipped")
COUNTS = ("read", "inserted", "updated", "unchanged", "rejected", "superseded")
FAILED = 1
LOOKS_PER_SECOND = 10


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""

    @app.command("import")
    def import_file(
        ctx: typer.Context,
        name: ImportName,
        file: Path = typer.Argument(..., metavar="FILE", help="The file to load."),
        notes: str = typer.Option("", "--notes", metavar="TEXT", help="Kept with the load and its job."),
        tag: list[str] = typer.Option([], "--tag", metavar="TAG", help="May be repeated."),
        priority: str = typer.Option("", "--priority", metavar="PRIORITY", help="low, normal, high or -100..100."),
        metadata: str = typer.Option("", "--metadata", metavar="JSON", help="A JSON object, kept with the load and its job."),
        force: bool = typer.Option(False, "--force", help="Load it even if the same content has been loaded."),
    ) -> int:
        """Load one file by hand.

        A running daemon does the work; without one it is done here. Prints the counts; exit 1 if the load failed.
        """
        shell: Shell = ctx.obj
        options: dict[str, Any] = {
            "notes": notes or None,
            "tags": tag,
            "priority": parse_option("--priority", parse_priority, priority) if priority else None,
            "metadata": parse_object("--metadata", metadata, '{"sender": "acme"}') if metadata else None,
            "force": force,
        }
        return shell.run(_import(shell, name, file.absolute(), options))

    imports = typer.Typer(help="Look at imports, have one scanned now.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(imports, name="imports")

    @imports.command("list")
    def list_imports(ctx: typer.Context) -> None:
        """The declared imports and their last load."""
        shell: Shell = ctx.obj
        shell.run(_list_imports(shell))

    @imports.command()
    def trigger(ctx: typer.Context, name: ImportName) -> None:
        """Have an import's source scanned now."""
        shell: Shell = ctx.obj
        shell.run(_trigger(shell, name))

    add_records(imports, "import")

    loads = typer.Typer(help="Look at loads and rejects; retry and skip failed ones.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(loads, name="loads")

    @loads.command("list")
    def list_loads(
        ctx: typer.Context,
        name: str = typer.Option("", "--import", metavar="NAME", help="Only of this import."),
        status: str = typer.Option("", "--status", metavar="STATUS", help=" ".join(STATUSES)),
        limit: int = typer.Option(20, "--limit", metavar="N", min=1, max=1000, help="How many, 1 to 1000."),
    ) -> None:
        """The newest loads."""
        shell: Shell = ctx.obj
        if status and status not in STATUSES:
            raise InvalidInput(f'--status: "{status}" is none of {", ".join(STATUSES)}{did_you_mean(status, STATUSES)}', pointer="--status")
        shell.run(_list_loads(shell, name or None, status or None, limit))

    @loads.command()
    def show(ctx: typer.Context, load_id: LoadId) -> None:
        """One load with everything known about it."""
        shell: Shell = ctx.obj
        shell.run(_show(shell, load_id))

    @loads.command()
    def rejects(
        ctx: typer.Context, load_id: LoadId, limit: int = typer.Option(100, "--limit", metavar="N", min=1, max=100_000, help="How many.")
    ) -> None:
        """The records that did not load, and why."""
        shell: Shell = ctx.obj
        shell.run(_rejects(shell, load_id, limit))

    @loads.command()
    def retry(ctx: typer.Context, load_id: LoadId) -> None:
        """Load a failed file again."""
        shell: Shell = ctx.obj
        shell.run(_retry(shell, load_id))

    @loads.command()
    def skip(ctx: typer.Context, load_id: LoadId) -> None:
        """Give a failed file up, so that those behind it can load."""
        shell: Shell = ctx.obj
        shell.run(_skip(shell, load_id))


async def _import(shell: Shell, name: str, file: Path, options: dict[str, Any]) -> int:
    async with session(shell) as opened:
        settings = opened.settings
        async with inline.workshop(settings, opened.location) as workshop:
            load_id = await actions.import_file(workshop.intake, shell.actor, name, settings.imports, file, **options)
            try:
                done = await _see_it_loaded(shell, workshop, opened.conn, load_id)
            except asyncio.CancelledError:
                complain(f"load {load_id} stays in the queue: a daemon or the next `ingestd import` takes it up")
                raise
    shell.answer(strings_for_ids(done), _sentence(done))
    if done["blocked_by"]:
        before = done["blocked_by"]
        raise Conflict(
            f"load {load_id} waits behind load {before}, which failed; it is loaded once that one is settled",
            hint=f"ingestd loads retry {before}, or ingestd loads skip {before}",
        )
    if done["status"] == "failed":
        complain(done["reason"])
    return FAILED if done["status"] == "failed" else 0


def _sentence(load: dict[str, Any]) -> str:
    counts = " ".join(f"{name} {load[name] or 0:,}" for name in COUNTS)
    tail = f" ({load['reason']})" if load["reason"] and load["status"] != "failed" else ""
    return printable(f"load {load['id']}: {counts} status {load['status']}{tail}")


async def _see_it_loaded(shell: Shell, workshop: inline.Workshop, conn: asyncpg.Connection, load_id: int) -> dict[str, Any]:
    """Until it is final, or waits for somebody to decide about another one; by ourselves where nobody else does it."""
    look = 0
    while True:
        # again now and then: a daemon may stop, and another command ends when its own file is loaded
        if look % LOOKS_PER_SECOND == 0 and not await workshop.somebody_works():
            if look == 0:
                shell.report("no daemon is running: loading here")
            await workshop.work()
        found = await _require(conn, load_id)
        if found["status"] != "pending" or found["blocked_by"]:
            return found
        look += 1
        await asyncio.sleep(1 / LOOKS_PER_SECOND)


async def _require(conn: asyncpg.Connection, load_id: int) -> dict[str, Any]:
    found = await reads.load_detail(conn, load_id)
    if found is None:
        raise NotFound(f"there is no load {load_id}")
    return found


async def _list_imports(shell: Shell) -> None:
    async with reach(shell) as source:
        found = await source.imports()
    rows = [
        [
            row["name"],
            row["source"],
            row["table"],
            row["mode"],
            row["last_status"],
            row["last_file"],
            row["last_finished_at"],
            row["pending"],
        ]
        for row in found
    ]
    columns = ["name", "source", "table", "mode", "last", "file", "finished", "pending"]
    shell.answer({"items": strings_for_ids(found)}, table(columns, rows) if found else "no imports are declared")


async def _trigger(shell: Shell, name: str) -> None:
    async with reach(shell) as source:
        job_id = await source.trigger(name)
        await source.tell_if_nobody_works()
    shell.answer({"job_id": job_id}, f"job {job_id}")


async def _list_loads(shell: Shell, name: str | None, status: str | None, limit: int) -> None:
    async with reach(shell) as source:
        found = await source.loads(name, status, limit)
    rows = [
        [
            str(load["id"]),
            load["import_name"],
            load["file"],
            load["status"],
            *[load[count] for count in COUNTS],
            milliseconds(load["duration_ms"]),
            load["reason"],
        ]
        for load in found
    ]
    columns = ["id", "import", "file", "status", *COUNTS, "took", "why"]
    shell.answer({"items": strings_for_ids(found)}, table(columns, rows) if found else "no loads")


async def _show(shell: Shell, load_id: int) -> None:
    async with reach(shell) as source:
        found = await source.load(load_id)
    shell.answer(strings_for_ids(found), details(found))


async def _rejects(shell: Shell, load_id: int, limit: int) -> None:
    async with reach(shell) as source:
        found = await source.rejects(load_id, limit)
    rows = [[row["record"], row["column"], row["code"], row["reason"], row["raw"]] for row in found]
    shell.answer({"items": found}, table(["record", "column", "code", "reason", "raw"], rows) if found else "no rejects")


async def _retry(shell: Shell, load_id: int) -> None:
    async with reach(shell) as source:
        job_id = await source.retry(load_id)
        await source.tell_if_nobody_works()
    shell.answer({"id": str(load_id), "job_id": job_id}, f"load {load_id} is tried again as job {job_id}")


async def _skip(shell: Shell, load_id: int) -> None:
    async with reach(shell) as source:
        await source.skip(load_id)
    shell.answer({"id": str(load_id), "status": "skipped"}, f"load {load_id} is skipped; the ones behind it go on")
