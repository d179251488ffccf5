"""`health`: asks the running daemon, for scripts and people."""

from __future__ import annotations

import http.client
import json
from typing import Any

import typer

from ingestd.app.settings import Settings
from ingestd.cli.console import table
from ingestd.cli.shell import Shell, complain

TIMEOUT_S = 10.0
CODES = {"healthy": 0, "degraded": 1, "critical": 2}
UNREACHABLE = 3


class Silence(Exception):
    """No daemon answered, or something else did."""


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command()
    def health(ctx: typer.Context) -> int:
        """Ask the running daemon how it is.

        Exit code: 0 healthy, 1 degraded, 2 critical, 3 unreachable.
        """
        return _health(ctx.obj)


def _health(shell: Shell) -> int:
    settings = shell.settings()
    port = _port(settings)
    try:
        if not port:
            raise Silence(f"no daemon is running with the state folder {settings.daemon.state_dir}")
        report = _ask(settings, port)
    except Silence as error:
        complain(str(error), hint="start it with `ingestd run`")
        if shell.json:
            shell.answer({"status": "unreachable", "checks": [], "detail": str(error)})
        return UNREACHABLE
    rows = [[check["name"], check["status"], check["value"], check["threshold"], check["hint"]] for check in report["checks"]]
    shell.answer(report, table(["check", "status", "value", "threshold", "hint"], rows, title=str(report["status"])))
    return CODES.get(report["status"], UNREACHABLE)


def _port(settings: Settings) -> int:
    """The port that the running daemon wrote down, else the configured one."""
    try:
        return int((settings.daemon.state_dir / "admin.port").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return settings.admin.port


def _ask(settings: Settings, port: int) -> dict[str, Any]:
    host, token = settings.admin.host, settings.admin.token.get_secret_value()
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health", headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        document: dict[str, Any] = json.loads(response.read())
        if response.status not in (200, 503) or not isinstance(document["status"], str) or not isinstance(document["checks"], list):
            raise ValueError
    except OSError as error:
        raise Silence(f"no daemon answers at {address}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, http.client.HTTPException):
        raise Silence(f"what answers at {address} is not ingestd: another program has the port") from None
    finally:
        connection.close()
    return document
