"""`migrate` and `psql`."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

import typer

from ingestd.app.database import locate
from ingestd.cli.console import table
from ingestd.cli.shell import Shell
from ingestd.errors import IngestdError, Refused, UsageError
from ingestd.postgres import migrate as migrations
from ingestd.postgres.embedded import psql_path
from ingestd.postgres.session import connect

BY_SIGNAL = 128
# What libpq knows by name; anything else in a URL is a setting of the session.
_LIBPQ = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "database": "PGDATABASE",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
    "application_name": "PGAPPNAME",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "options": "PGOPTIONS",
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""

    @app.command()
    def migrate(
        ctx: typer.Context,
        status: bool = typer.Option(False, "--status", help="Only show which migrations are applied."),
        sql: bool = typer.Option(False, "--sql", help="Only print the SQL that would be run."),
        grant: str = typer.Option(
            "", "--grant", metavar="ROLE", help="Let a role enqueue jobs and hear what came of them, and nothing else."
        ),
    ) -> None:
        """Bring the database's schema to this version."""
        shell: Shell = ctx.obj
        if (only := [name for name, given in (("--status", status), ("--sql", sql), ("--grant", grant)) if given])[1:]:
            raise UsageError(f"{' and '.join(only)} exclude each other")
        shell.run(_migrate(shell, status, sql, grant))

    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
    def psql(ctx: typer.Context) -> int:
        """Open psql on the daemon's database.

        The embedded one included. Options are psql's own, such as -c 'select 1', and `ingestd psql --help=options` tells them; --url alone
        prints the URL, with its password, for other programs.
        """
        if ctx.args == ["--help"]:
            # the answer to this needs no database, which a first call would have to make
            typer.echo(ctx.get_help())
            return 0
        shell: Shell = ctx.obj
        return shell.run(_psql(shell, list(ctx.args)))


async def _migrate(shell: Shell, only_status: bool, only_sql: bool, grant: str) -> None:
    settings = shell.settings()
    async with locate(settings, shell.report) as location:
        conn = await connect(location.direct_dsn, application_name="ingestd:migrate", pooled=location.pooled)
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
        # by environment: a password in the command line could be read by every user of the machine
        given = location.embedded.client_environment if location.embedded else client_environment(location.dsn)
        # Ctrl-C belongs to psql, which cancels its query and goes on
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
        process = await asyncio.create_subprocess_exec(_program(), *arguments, env={**shell.environ, **given})
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
        return code if code >= 0 else BY_SIGNAL - code


def _program() -> str:
    found = shutil.which("psql")
    if found:
        return found
    try:
        return str(psql_path())
    except IngestdError as error:
        raise Refused(f"psql is not there: {error}", hint="install it (Debian: postgresql-client), or use `ingestd psql --url`") from None


def client_environment(url: str) -> Mapping[str, str]:
    """A PostgreSQL URL as the variables that libpq's programs read."""
    parts = urlsplit(url)
    login, _, address = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    hosts = [one.rpartition(":") if one.rpartition(":")[2].isdecimal() else (one, "", "") for one in address.split(",")]
    found = {
        "PGUSER": unquote(user),
        "PGPASSWORD": unquote(password),
        "PGDATABASE": unquote(parts.path.lstrip("/")),
        "PGHOST": ",".join(unquote(host).strip("[]") for host, _, _ in hosts),
        "PGPORT": ",".join(port for _, _, port in hosts) if any(port for _, _, port in hosts) else "",
    }
    settings = []
    for name, value in parse_qsl(parts.query):
        if name in _LIBPQ:
            found[_LIBPQ[name]] = value
        else:
            escaped = value.replace("\\", "\\\\").replace(" ", "\\ ")
            settings.append(f"-c {name}={escaped}")
    if settings:
        found["PGOPTIONS"] = " ".join([*filter(None, [found.get("PGOPTIONS")]), *settings])
    return {name: value for name, value in found.items() if value}
