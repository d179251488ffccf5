"""`migrate` and `psql`."""

from __future__ import annotations

import asyncio
import os
import shutil
from urllib.parse import urlsplit

import typer

from ingestd.app.database import locate
from ingestd.cli.console import Shell, table
from ingestd.errors import Refused
from ingestd.postgres import migrate as migrations
from ingestd.postgres.embedded import psql_path
from ingestd.postgres.pool import connect

SHELL_ENDED_BY_SIGNAL = 128


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""

    @app.command()
    def migrate(
        ctx: typer.Context,
        status: bool = typer.Option(False, "--status", help="Only show which migrations are applied."),
        sql: bool = typer.Option(False, "--sql", help="Only print the SQL that would be run."),
        grant: str = typer.Option("", "--grant", metavar="ROLE", help="Let a role enqueue jobs from SQL."),
    ) -> None:
        """Bring the database's schema to this version."""
        shell: Shell = ctx.obj
        shell.run(_migrate(shell, status, sql, grant))

    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
    def psql(ctx: typer.Context) -> int:
        """Open psql on the daemon's database, the embedded one included; arguments are psql's own, --url prints the URL."""
        shell: Shell = ctx.obj
        return shell.run(_psql(shell, list(ctx.args)))


async def _migrate(shell: Shell, only_status: bool, only_sql: bool, grant: str) -> None:
    settings = shell.settings()
    async with locate(settings, shell.report) as location:
        conn = await connect(location.direct_dsn, application_name="ingestd:migrate")
        try:
            if only_sql:
                pending = [item.migration for item in await migrations.status(conn) if item.applied_at is None]
                text = "\n".join(f"-- {item.version:04d}_{item.name}\n{item.sql}" for item in pending)
                shell.answer([{"version": item.version, "sql": item.sql} for item in pending], text or "-- nothing to do")
                return
            applied = [] if only_status else await migrations.migrate(conn)
            if grant:
                await migrations.grant(conn, grant)
            found = await migrations.status(conn)
        finally:
            await conn.close(timeout=5)
    document = [{"version": item.migration.version, "name": item.migration.name, "applied_at": item.applied_at} for item in found]
    now = {item.version for item in applied}
    rows = [
        [f"{item.migration.version:04d}", item.migration.name, "now" if item.migration.version in now else item.applied_at or "pending"]
        for item in found
    ]
    shell.answer(document, table(["version", "name", "applied"], rows))


async def _psql(shell: Shell, arguments: list[str]) -> int:
    settings = shell.settings()
    async with locate(settings, shell.report) as location:
        if arguments == ["--url"]:
            shell.answer({"url": location.dsn}, location.dsn)
            return 0
        environment = dict(os.environ)
        if location.embedded is not None:
            # by environment: a password in the command line could be read by every user of the machine
            environment |= location.embedded.client_environment
        else:
            environment |= _client_environment(location.dsn)
        process = await asyncio.create_subprocess_exec(_program(), *arguments, env=environment)
        while True:
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                # Ctrl-C belongs to psql, which cancels its query and goes on
                continue
            return code if code >= 0 else SHELL_ENDED_BY_SIGNAL - code


def _program() -> str:
    found = shutil.which("psql")
    if found:
        return found
    try:
        return str(psql_path())
    except Exception as error:
        raise Refused(f"psql is not there: {error}", hint="install it (Debian: postgresql-client), or use --url") from None


def _client_environment(dsn: str) -> dict[str, str]:
    parts = urlsplit(dsn)
    found = {"PGDATABASE": dsn}
    if parts.password:
        bare = parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@", 1))
        found = {"PGDATABASE": bare.geturl(), "PGPASSWORD": parts.password}
    return found
