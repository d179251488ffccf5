"""`audit`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import typer

from ingestd.access.store import AuditFilter
from ingestd.cli.console import table
from ingestd.cli.options import parse_moment
from ingestd.cli.shell import Shell
from ingestd.cli.sources.access import reach
from ingestd.errors import InvalidInput
from ingestd.settings import parse_duration

COLUMNS = ("id", "at", "who", "by", "did", "what", "which", "from", "details")


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command()
    def audit(
        ctx: typer.Context,
        actor: str = typer.Option("", "--actor", metavar="NAME", help="Only what that one did, such as token:grafana."),
        action: str = typer.Option("", "--action", metavar="WORD", help="Only that: retry, cancel, pause, trigger, create, …"),
        on: str = typer.Option("", "--on", metavar="TYPE[:ID]", help="Only to such a thing, such as job:42 or schedule:nightly."),
        denied: bool = typer.Option(False, "--denied", help="Only what was refused."),
        since: str = typer.Option("", "--since", metavar="TIME", help="An ISO time, or how long ago, such as 2h."),
        limit: int = typer.Option(50, "--limit", metavar="N", min=1, max=1000, help="How many, 1 to 1000."),
        before: int = typer.Option(0, "--before", metavar="ID", min=0, max=2**63 - 1, help="Only those before this one: the next page."),
    ) -> None:
        """Who did what, and what was refused.

        The newest comes first.
        """
        shell: Shell = ctx.obj
        object_type, _, object_id = on.partition(":")
        which = AuditFilter(
            object_type=object_type or None,
            object_id=object_id or None,
            actor=actor or None,
            action=action or None,
            outcome="denied" if denied else None,
            since=_ago(since) if since else None,
            before_id=before or None,
        )
        shell.run(_audit(shell, which, limit))


def _ago(text: str) -> datetime:
    try:
        return datetime.now(UTC) - parse_duration(text)
    except OverflowError:
        raise InvalidInput(f'--since: "{text}" is too long ago', pointer="--since") from None
    except ValueError:
        return parse_moment("--since", text)


async def _audit(shell: Shell, which: AuditFilter, limit: int) -> None:
    async with reach(shell) as source:
        found = await source.audit(which, limit)
    shell.answer({"items": [_shape(row) for row in found]}, table(COLUMNS, map(_row, found)) if found else "nothing of the kind")


def _shape(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"id": str(row["id"]), "token_id": str(row["token_id"]) if row["token_id"] else None}


def _row(row: dict[str, Any]) -> list[Any]:
    did = row["action"] if row["outcome"] == "done" else f"{row['action']} (denied)"
    details = json.dumps(row["detail"], default=str, ensure_ascii=False) if row["detail"] else None
    origin = row["address"] or row["via"]
    return [str(row["id"]), row["at"], row["actor"], row["role"], did, row["object_type"], row["object_id"], origin, details]
