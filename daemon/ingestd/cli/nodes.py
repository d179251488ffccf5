"""`nodes`."""

from __future__ import annotations

from typing import Any

import typer

from ingestd.cli.console import table
from ingestd.cli.shell import Shell
from ingestd.cli.sources.nodes import reach


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""
    nodes = typer.Typer(help="Look at nodes, let one finish and end.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(nodes, name="nodes")

    @nodes.command("list")
    def list_nodes(ctx: typer.Context) -> None:
        """Nodes that run, and those that ended within a day."""
        shell: Shell = ctx.obj
        shell.run(_list(shell))

    @nodes.command()
    def drain(ctx: typer.Context, node: str = typer.Argument(metavar="NODE", help="Its name, its id or the beginning of it.")) -> None:
        """Ask a node to finish its jobs and end, as by SIGTERM.

        It claims nothing more, and its process ends with exit code 0.
        """
        shell: Shell = ctx.obj
        shell.run(_drain(shell, node))


async def _list(shell: Shell) -> None:
    async with reach(shell) as source:
        found = await source.nodes()
    rows = [
        [
            node["name"],
            str(node["id"])[:8],
            _state(node),
            ",".join(node["duties"]),
            node["running"],
            " ".join(f"{name} {lane['running']}/{lane['slots']}" for name, lane in _lanes(node)),
            f"{node['loop_lag_ms'] or 0:.0f} ms",
            node["started_at"],
            "; ".join(f"{name}: {lane['reason']}" for name, lane in _lanes(node) if lane["reason"]),
        ]
        for node in found
    ]
    columns = ["name", "id", "state", "duties", "holds", "slots", "lag", "started", "scaled"]
    shell.answer({"items": found}, table(columns, rows) if found else "no node has run within a day")


def _lanes(node: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Its queues; none of a node that has ended, whose last report would look as if it were still at work."""
    return [] if node["state"] in ("stopped", "dead") else sorted(node["lanes"].items())


def _state(node: dict[str, Any]) -> str:
    if node["state"] == "running" and node["drain_asked_at"]:
        return f"asked to drain by {node['drain_asked_by']}"
    return str(node["state"])


async def _drain(shell: Shell, which: str) -> None:
    async with reach(shell) as source:
        done = await source.drain(which)
    words = "is asked to drain and end" if done["asked"] else "was asked before"
    shell.answer(done, f"node {done['name']} {words}")
