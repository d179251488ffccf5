"""`queues`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ingestd.cli.console import table
from ingestd.cli.shell import Shell
from ingestd.cli.sources.queues import reach

QueueName = Annotated[str, typer.Argument(metavar="NAME", help="A queue.")]


def add_to(app: typer.Typer) -> None:
    """Enter the commands."""
    queues = typer.Typer(help="Look at queues, pause and resume them.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(queues, name="queues")

    @queues.command("list")
    def list_queues(ctx: typer.Context) -> None:
        """All queues: what waits and runs there, and what holds it back."""
        shell: Shell = ctx.obj
        shell.run(_list(shell))

    @queues.command()
    def pause(ctx: typer.Context, name: QueueName) -> None:
        """Start nothing more from a queue on any node; what runs goes on."""
        shell: Shell = ctx.obj
        shell.run(_pause(shell, name, paused=True))

    @queues.command()
    def resume(ctx: typer.Context, name: QueueName) -> None:
        """Start jobs of a queue again, at once."""
        shell: Shell = ctx.obj
        shell.run(_pause(shell, name, paused=False))


async def _list(shell: Shell) -> None:
    async with reach(shell) as source:
        found = await source.overview()
    rows = [
        [
            queue["name"],
            queue["depth"],
            queue["running"],
            sum(queue["jobs"].get(state, 0) for state in ("scheduled", "retrying", "blocked")),
            f"{queue['oldest_age_seconds']:.1f} s" if queue["depth"] else None,
            f"{queue['slots']} on {queue['nodes']}" if queue["nodes"] else "no node",
            _limits(queue),
            f"paused by {queue['paused_by']}" if queue["paused"] else _held_back(queue),
        ]
        for queue in found
    ]
    columns = ["name", "depth", "running", "later", "oldest", "slots", "limits", "is"]
    shell.answer({"items": found}, table(columns, rows))


def _limits(queue: dict[str, Any]) -> str | None:
    limits = []
    if queue["global_concurrency"]:
        limits.append(f"{queue['global_concurrency']} at once")
    if queue["rate"]:
        limits.append(queue["rate"])
    if queue["key_concurrency"] > 1:
        limits.append(f"{queue['key_concurrency']} a key")
    return ", ".join(limits)


def _held_back(queue: dict[str, Any]) -> str:
    left = queue["left"]
    if not left or not queue["depth"]:
        return "open"
    if left["wait_seconds"]:
        return f"at its rate, next in {left['wait_seconds']:.1f} s"
    return "at its limit" if left.get("running") == 0 else "open"


async def _pause(shell: Shell, name: str, *, paused: bool) -> None:
    async with reach(shell) as source:
        await (source.pause(name) if paused else source.resume(name))
    word = "paused" if paused else "open"
    shell.answer({"name": name, "state": word}, f"{name} is {word}")
