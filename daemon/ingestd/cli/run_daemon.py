"""`run` and `check`."""

from __future__ import annotations

import asyncio
import signal

import typer

from ingestd.app.app import App, Options
from ingestd.app.control import Control
from ingestd.app.handlers import user_handlers
from ingestd.app.settings import Settings, warnings
from ingestd.cli.console import Shell, complain
from ingestd.events import Bus
from ingestd.logging import LogListener

FORCED = 75


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""

    @app.command()
    def run(
        ctx: typer.Context,
        duties: str = typer.Option("", "--duties", help="What this node does: work,schedule,serve (default: all)."),
        queues: str = typer.Option("", "--queues", help="Queues this node works on (default: all)."),
    ) -> int:
        """Run the daemon. SIGTERM drains, a second one forces, SIGHUP reloads the configuration."""
        shell: Shell = ctx.obj
        if duties:
            shell.environ = {**shell.environ, "INGESTD_DAEMON__DUTIES": duties}
        if queues:
            shell.environ = {**shell.environ, "INGESTD_DAEMON__QUEUES": queues}
        settings = shell.settings()
        for warning in warnings(settings):
            complain(f"warning: {warning}")
        return shell.run(serve(shell, settings, Control()), settings.logs.level)

    @app.command()
    def check(ctx: typer.Context) -> None:
        """Check the configuration without starting anything: every error and warning at once."""
        shell: Shell = ctx.obj
        settings = shell.settings()
        user_handlers(settings.daemon.handlers, shell.folder)
        found = warnings(settings)
        for warning in found:
            complain(f"warning: {warning}")
        shell.answer({"ok": True, "warnings": found}, "configuration is valid")


async def serve(shell: Shell, settings: Settings, control: Control, options: Options | None = None, bus: Bus | None = None) -> int:
    """Run one node under this process's signals.

    Returns:
        The exit code: 0, or 75 if a second signal forced the end.
    """
    bus = bus or Bus()
    bus.subscribe(LogListener())
    options = options or Options(reload=shell.settings, folder=shell.folder, report=shell.report)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, control.stop)
    loop.add_signal_handler(signal.SIGHUP, control.reload.set)
    await App(settings, control, bus, options).run()
    return FORCED if control.force.is_set() else 0
