"""`demo`: the whole product on real data, with nothing configured."""

from __future__ import annotations

import typer

from ingestd.cli.shell import Shell


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command()
    def demo(
        ctx: typer.Context,
        leave: bool = typer.Option(False, "--exit", help="Stop when the demo's work is done."),
    ) -> int:
        """Show it all on real data: an import, rollups, one page.

        Imports a year of weather and a month of flights with an embedded Postgres of its own, keeps rollups of them, and
        serves the admin page until Ctrl-C. A second run skips what is loaded already.
        """
        from ingestd.demo.show import run

        shell: Shell = ctx.obj
        return run(shell, leave=leave)
