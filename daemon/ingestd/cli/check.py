"""`check`."""

from __future__ import annotations

import typer

from ingestd.app.settings import Settings, warnings
from ingestd.cli.shell import Shell, complain
from ingestd.errors import ConfigurationError
from ingestd.schedule.settings import COMMANDS
from ingestd.settings import did_you_mean


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command()
    def check(ctx: typer.Context) -> None:
        """Check the configuration without starting anything.

        Every error and warning is told at once, with its place; exit 78 if there is an error.
        """
        _check(ctx.obj)


def _check(shell: Shell) -> None:
    try:
        settings = shell.settings()
        found = [*warnings(settings, shell.environ), *_unknown_kinds(shell, settings)]
    except ConfigurationError as error:
        if shell.json:
            shell.answer({"ok": False, "problems": error.problems, "warnings": []})
        raise
    for warning in found:
        complain(f"warning: {warning}")
    shell.answer({"ok": True, "problems": [], "warnings": found}, "configuration is valid")


def _unknown_kinds(shell: Shell, settings: Settings) -> list[str]:
    """Jobs that are declared to run although this node cannot run them; another one may."""
    wanted = [("job", f"schedules.{name}", one.job) for name, one in settings.schedules.items() if one.job]
    wanted += [("after", f"schedules.{name}", other.job) for name, one in settings.schedules.items() for other in one.after if other.job]
    for name, workflow in settings.workflows.items():
        wanted += [("job", f"workflows.{name}.steps.{step_name}", step.job) for step_name, step in workflow.steps.items() if step.job]
    if not wanted and not settings.daemon.handlers:
        return []
    from ingestd.app.handlers import user_handlers
    from ingestd.app.workflows import unknown_undos

    kinds = {spec.kind for spec in user_handlers(settings.daemon.handlers, shell.folder)}
    undos = unknown_undos(settings.workflows, kinds)
    if undos and settings.daemon.handlers:
        raise ConfigurationError(undos)
    return undos + [
        f'"{key}" in [{where}]: none of [daemon] handlers declares the kind "{kind}"{did_you_mean(kind, kinds)}'
        for key, where, kind in wanted
        # a command can be waited for as well
        if kind not in kinds and not (key == "after" and kind in COMMANDS)
    ]
