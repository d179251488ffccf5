"""`health`: asks the running daemon, for scripts and people."""

from __future__ import annotations

from typing import Any

import aiohttp
import typer

from ingestd.app.settings import Settings
from ingestd.cli.console import Shell, complain, table

TIMEOUT_S = 10.0
CODES = {"healthy": 0, "degraded": 1, "critical": 2}
UNREACHABLE = 3


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command()
    def health(ctx: typer.Context) -> int:
        """Health of the running daemon: exit 0 healthy, 1 degraded, 2 critical, 3 unreachable."""
        shell: Shell = ctx.obj
        return shell.run(_health(shell))


async def _health(shell: Shell) -> int:
    settings = shell.settings()
    url = address(settings)
    try:
        report = await _fetch(f"{url}/health", settings)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        complain(f"no daemon answers at {url}: {error or type(error).__name__}", hint="start it with `ingestd run`")
        if shell.json:
            shell.answer({"status": "unreachable", "checks": []})
        return UNREACHABLE
    rows = [[check["name"], check["status"], check["value"], check["threshold"], check["hint"]] for check in report["checks"]]
    shell.answer(report, table(["check", "status", "value", "threshold", "hint"], rows, title=f"{report['status']}"))
    return CODES.get(report["status"], UNREACHABLE)


def address(settings: Settings) -> str:
    """Where the daemon of this configuration listens: the port it wrote down, else the configured one."""
    try:
        port = (settings.daemon.state_dir / "admin.port").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        port = str(settings.admin.port)
    host = f"[{settings.admin.host}]" if ":" in settings.admin.host else settings.admin.host
    return f"http://{host}:{port}"


async def _fetch(url: str, settings: Settings) -> dict[str, Any]:
    token = settings.admin.token.get_secret_value()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as client, client.get(url) as response:
        if response.status not in (200, 503):
            raise ValueError(f"HTTP {response.status}")
        document: dict[str, Any] = await response.json()
        return document
