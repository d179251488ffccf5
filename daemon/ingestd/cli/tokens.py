"""`token`."""

from __future__ import annotations

from typing import Any

import typer

from ingestd.access.roles import TOKEN_ROLES
from ingestd.cli.console import table
from ingestd.cli.shell import Shell, complain, printable
from ingestd.cli.sources.access import reach

COLUMNS = ("name", "begins", "role", "scopes", "expires", "last used", "from", "made by", "made")


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""
    token = typer.Typer(help="Make, list and revoke API tokens.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(token, name="token")

    @token.command()
    def create(
        ctx: typer.Context,
        name: str = typer.Argument(metavar="NAME", help="What people call it, such as grafana or deploy-ci."),
        role: str = typer.Option("viewer", "--role", metavar="ROLE", help=f"What it may do: {', '.join(TOKEN_ROLES)}."),
        scope: list[str] = typer.Option([], "--scope", metavar="AREA", help="Only that area, such as metrics or jobs:read; repeatable."),
        expires: str = typer.Option("90d", "--expires", metavar="TIME", help='After how long it lets nobody in any more, or "never".'),
    ) -> None:
        """Make a token. It is shown this once: only a hash of it is kept."""
        shell: Shell = ctx.obj
        shell.run(_create(shell, name, role, scope, expires))

    @token.command("list")
    def list_all(
        ctx: typer.Context,
        every: bool = typer.Option(False, "--all", help="Expired and revoked ones as well."),
    ) -> None:
        """Tokens: what they may do, until when, last used when."""
        shell: Shell = ctx.obj
        shell.run(_list(shell, every))

    @token.command()
    def revoke(
        ctx: typer.Context,
        token: str = typer.Argument(metavar="TOKEN", help="Its name, its id, or how it begins (or all of it, where it leaked)."),
    ) -> None:
        """End a token, on all nodes at once."""
        shell: Shell = ctx.obj
        shell.run(_revoke(shell, token))


async def _create(shell: Shell, name: str, role: str, scopes: list[str], expires: str) -> None:
    async with reach(shell) as source:
        made, first = await source.create_token(name, role, _split(scopes), expires)
    shell.answer(made, made["token"])
    if not shell.quiet:
        until = f"until {made['expires_at'].astimezone():%Y-%m-%d %H:%M %Z}" if made["expires_at"] else "until it is revoked"
        complain(f'token "{name}" ({role}) is valid {until}; keep it now, it is not shown again')
        if first:
            complain("from now on acting over HTTP takes a token, on this machine too; looking from this machine does not")


def _split(scopes: list[str]) -> list[str]:
    return [part for scope in scopes for part in scope.split(",")]


async def _list(shell: Shell, every: bool) -> None:
    async with reach(shell) as source:
        found = await source.tokens(every=every)
    columns = [*COLUMNS, "is"] if every else list(COLUMNS)
    rows = [_row(token, every) for token in found]
    nothing = "no token is in force: `ingestd token create NAME` makes one"
    shell.answer({"items": found}, table(columns, rows) if found else nothing)


def _row(token: dict[str, Any], every: bool) -> list[Any]:
    cells = [
        token["name"],
        token["begins"],
        token["role"],
        ", ".join(token["scopes"]) or "all",
        token["expires_at"] or "never",
        token["last_used_at"] or "never",
        token["last_used_from"],
        token["created_by"],
        token["created_at"],
    ]
    ended = f"revoked by {token['revoked_by']}" if token["revoked_at"] else token["state"]
    return [*cells, ended] if every else cells


async def _revoke(shell: Shell, which: str) -> None:
    async with reach(shell) as source:
        ended = await source.revoke_token(which)
    shell.answer(ended, printable(f"token {ended['name']} ({ended['begins']}) lets nobody in any more"))
