"""`health`: asks the running daemon, for scripts and people."""

from __future__ import annotations

from typing import Any

import typer

from ingestd.cli.api_errors import DaemonUnreachable
from ingestd.cli.console import table
from ingestd.cli.daemon_here import ask_daemon
from ingestd.cli.shell import Shell, complain

CODES = {"healthy": 0, "degraded": 1, "critical": 2}
UNREACHABLE = 3


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command()
    def health(ctx: typer.Context) -> int:
        """Ask the running daemon how it is.

        Exit code: 0 healthy, 1 degraded, 2 critical, 3 unreachable.
        """
        shell: Shell = ctx.obj
        return shell.run(_health(shell))


async def _health(shell: Shell) -> int:
    try:
        report = await _report(shell)
    except DaemonUnreachable as error:
        complain(error.message, hint=error.hint if shell.address else "start it with `ingestd run`")
        if shell.json:
            shell.answer({"status": "unreachable", "checks": [], "detail": error.message})
        return UNREACHABLE
    rows = [[check["name"], check["status"], check["value"], check["threshold"], check["hint"]] for check in report["checks"]]
    shell.answer(report, table(["check", "status", "value", "threshold", "hint"], rows, title=str(report["status"])))
    return CODES.get(report["status"], UNREACHABLE)


async def _report(shell: Shell) -> dict[str, Any]:
    async with ask_daemon(shell) as api:
        report: dict[str, Any] = await api.get("/health")
        if not isinstance(report.get("status"), str) or not isinstance(report.get("checks"), list):
            raise DaemonUnreachable(f"what answers at {api.address} is not ingestd: another program has the port")
        return report
