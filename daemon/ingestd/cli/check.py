"""`check`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import typer

from ingestd.app.settings import Settings, look_at, queue_names, warnings
from ingestd.cli.shell import Shell, complain
from ingestd.errors import ConfigurationError
from ingestd.schedule.settings import COMMANDS
from ingestd.settings import did_you_mean, read_layers

if TYPE_CHECKING:
    from ingestd.jobs.registry import HandlerSpec


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command()
    def check(ctx: typer.Context) -> None:
        """Check the configuration without starting anything.

        Every error and warning is told at once, with its place; exit 78 if there is an error.
        """
        _check(ctx.obj)


def _check(shell: Shell) -> None:
    from ingestd.app.workflows import unknown_undos

    layers = read_layers(shell.files, shell.environ)
    settings, problems = look_at(layers)
    found: list[str] = []
    if settings is not None:
        handlers, faults = _handlers(shell, settings)
        problems += faults
        found = [] if problems else warnings(settings, shell.environ)
        if handlers is not None:
            undos = unknown_undos(settings.workflows, {spec.kind for spec in handlers})
            (problems if settings.daemon.handlers else found).extend(undos)
            found += _unknown_kinds(settings, {name for spec in handlers for name in (spec.kind, *spec.aliases)})
            from ingestd.app.handlers import homeless  # loaded by now

            found += homeless(handlers, queue_names(settings, layers))
    if problems and shell.json:
        shell.answer({"ok": False, "problems": problems, "warnings": found})
    for warning in found:
        complain(f"warning: {warning}")
    if problems:
        raise ConfigurationError(problems)
    shell.answer({"ok": True, "problems": [], "warnings": found}, "configuration is valid")


def _handlers(shell: Shell, settings: Settings) -> tuple[list[HandlerSpec] | None, list[str]]:
    """The user's handlers, None if they cannot be told or nothing names one; and why not."""
    if not (settings.daemon.handlers or settings.schedules or settings.workflows):
        return None, []
    from ingestd.app.handlers import user_handlers

    try:
        return user_handlers(settings.daemon.handlers, shell.folders), []
    except ConfigurationError as error:
        return None, error.problems


def _unknown_kinds(settings: Settings, kinds: Collection[str]) -> list[str]:
    """Jobs that are declared to run although this node cannot run them; another one may."""
    wanted = [("job", f"schedules.{name}", one.job) for name, one in settings.schedules.items() if one.job]
    wanted += [("after", f"schedules.{name}", other.job) for name, one in settings.schedules.items() for other in one.after if other.job]
    for name, workflow in settings.workflows.items():
        wanted += [("job", f"workflows.{name}.steps.{step_name}", step.job) for step_name, step in workflow.steps.items() if step.job]
    return [
        f'"{key}" in [{where}]: none of [daemon] handlers declares the kind "{kind}"{did_you_mean(kind, kinds)}'
        for key, where, kind in wanted
        # a command can be waited for as well
        if kind not in kinds and not (key == "after" and kind in COMMANDS)
    ]
