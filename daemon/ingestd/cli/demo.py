"""`demo`: the whole product on real data, with nothing configured."""

from __future__ import annotations

import typer

from ingestd.cli.console import Shell


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command()
    def demo(
        ctx: typer.Context,
        leave: bool = typer.Option(False, "--exit", help="Stop when the demo's work is done."),
    ) -> int:
        """Import a year of weather and a month of flights, keep rollups of them, and show it all on one page."""
        from ingestd.demo.show import run

        shell: Shell = ctx.obj
        return run(shell, leave=leave)
