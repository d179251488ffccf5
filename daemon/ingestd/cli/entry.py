"""From argv to an exit code: global options anywhere, errors as one clear line, never a traceback unless asked for."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from ingestd import __version__
from ingestd.cli import console, database, demo, health, imports, jobs, rollups, run_daemon, schedules, workflows
from ingestd.cli.console import Shell
from ingestd.errors import ConfigurationError, IngestdError

USAGE = 64
BUG = 70
_VALUED = ("--config",)
_FLAGS = ("--json", "-v", "--verbose", "-q", "--quiet")
# psql's own options must reach psql.
_PASSES_ON = ("psql",)


def run(argv: Sequence[str]) -> int:
    """Run one command.

    Returns:
        The exit code, by sysexits(3).
    """
    try:
        return _outcome(build()(args=_hoist(list(argv)), prog_name="ingestd", standalone_mode=False))
    except typer.Exit as left:
        return left.exit_code
    except typer.Abort:
        return 130
    except TyperException as error:
        message = error.format_message()
        if message:
            console.complain(message, hint="see `ingestd --help`, or `ingestd COMMAND --help`")
        return USAGE if message else 0
    except ConfigurationError as error:
        for problem in error.problems:
            console.complain(problem)
        return error.exit_code
    except IngestdError as error:
        console.complain(error.message, hint=error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of our output has gone; nothing is left to tell anyone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback for users
        if "-v" in argv or "--verbose" in argv:
            traceback.print_exc()
        console.complain(
            f"internal error: {type(error).__name__}: {error}", hint="this is a bug in ingestd; run again with -v for the traceback"
        )
        return BUG


def _outcome(value: object) -> int:
    return value if isinstance(value, int) else 0


def _hoist(argv: list[str]) -> list[str]:
    """Move global options to the front, so that they may stand anywhere."""
    front: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(argv):
        word = argv[position]
        if word == "--" or (rest and rest[0] in _PASSES_ON):
            rest += argv[position:]
            break
        if word in _VALUED:
            front += argv[position : position + 2]
            position += 2
            continue
        if word in _FLAGS or word.startswith(tuple(f"{name}=" for name in _VALUED)):
            front.append(word)
        else:
            rest.append(word)
        position += 1
    return front + rest


def build() -> typer.Typer:
    """Assemble all commands."""
    app = typer.Typer(
        name="ingestd",
        help="Import data into Postgres, keep rollups of it, run your jobs, and watch it all.",
        epilog="--config, --json, -v and -q may stand anywhere. Without a configuration everything has a default.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def options(
        ctx: typer.Context,
        config: list[str] = typer.Option([], "--config", metavar="FILE", help="Configuration file; may be repeated, later wins."),
        json: bool = typer.Option(False, "--json", help="Print one JSON document on stdout."),
        verbose: bool = typer.Option(False, "-v", "--verbose", help="More log lines, and tracebacks."),
        quiet: bool = typer.Option(False, "-q", "--quiet", help="Only warnings and errors."),
        version: bool = typer.Option(False, "--version", help="Print the version and leave."),
    ) -> None:
        if version:
            typer.echo(__version__)
            raise typer.Exit
        ctx.obj = Shell(config_files=config, json=json, verbose=verbose, quiet=quiet)

    for module in (demo, run_daemon, database, jobs, imports, rollups, schedules, workflows, health):
        module.add_to(app)
    return app
