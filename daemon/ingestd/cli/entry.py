"""From argv to an exit code: global options anywhere, errors as one clear line, never a traceback unless asked for."""

from __future__ import annotations

import asyncio
import errno
import gc
import importlib
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import typer
from typer.exceptions import TyperException

from ingestd import __version__
from ingestd.cli.address import Address, check_token, read_address
from ingestd.cli.shell import Interrupted, Shell, complain
from ingestd.errors import ConfigurationError, DatabaseUnreachable, IngestdError, Refused, UsageError

USAGE = 64
BUG = 70
CANNOT_WRITE = 74
BY_SIGINT = 130
_FLAGS = ("--json", "-v", "--verbose", "-q", "--quiet")
# Global options with a value; the first of each pair is what the value is called.
_VALUES = {"--config": ("FILE", "config.toml"), "--url": ("URL", "http://127.0.0.1:8420"), "--token": ("TOKEN", "igd_viewer_…")}
Side = Literal["either", "database", "machine"]

_UPLOAD = "files do not go through HTTP yet: put it into the folder that the import watches there, or run this on that machine"
_CLEANUP = "`ingestd enqueue cleanup` has a daemon there do it"


@dataclass(frozen=True, slots=True)
class Command:
    """One word after `ingestd`.

    Args:
        module: brings it, and is imported only when it is called.
        line: what it is for, in the overview.
        side: `either`: the configured database, or with --url a daemon elsewhere; `database`: only the former, and with INGESTD_URL set it
            refuses rather than do to one what was meant for the other; `machine`: neither, so that INGESTD_URL does not concern it.
        elsewhere: what to do instead where it is wanted of a daemon elsewhere.
    """

    module: str
    line: str
    side: Side = "either"
    elsewhere: str = ""


COMMANDS = {
    "demo": Command("demo", "Show it all on real data: an import, rollups, one page.", side="machine"),
    "run": Command("run_daemon", "Run the daemon.", side="machine"),
    "check": Command("check", "Check the configuration without starting anything.", side="machine"),
    "health": Command("health", "Ask the running daemon how it is."),
    "import": Command("imports", "Load one file by hand.", side="database", elsewhere=_UPLOAD),
    "imports": Command("imports", "Look at imports, have one scanned now."),
    "loads": Command("imports", "Look at loads and rejects; retry and skip failed ones."),
    "rollups": Command("rollups", "Look at rollups and refresh them."),
    "schedules": Command("schedules", "Look at schedules and slots; trigger, pause, skip, make, edit."),
    "workflows": Command("workflows", "Look at workflows, start, retry and cancel them."),
    "enqueue": Command("enqueue", "Enqueue one job."),
    "jobs": Command("jobs", "Look at jobs; cancel, retry, edit them, one or many."),
    "kinds": Command("kinds", "Look at kinds of job and how they have gone."),
    "cleanup": Command("cleanup", "Forget what [retention] does not keep any more.", side="database", elsewhere=_CLEANUP),
    "queues": Command("queues", "Look at queues, pause and resume them."),
    "nodes": Command("nodes", "Look at nodes, let one finish and end."),
    "token": Command("tokens", "Make, list and revoke API tokens."),
    "audit": Command("audit", "Who did what, and what was refused."),
    "api": Command("call", "Ask the API of a daemon, this machine's or that of --url."),
    "stats": Command("stats", "Open jobs by queue and state, and what finished lately."),
    "bench": Command("bench", "Measure the queue on this machine and this Postgres.", side="machine"),
    "migrate": Command("database", "Bring the database's schema to this version.", side="database"),
    "psql": Command("database", "Open psql on the daemon's database.", side="database"),
}
EPILOG = (
    "--config, --url, --token, --json, -v and -q may stand anywhere. Without a configuration everything has a default. With --url a command"
    " asks a daemon elsewhere instead of the configured database."
)


def run(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Run one command.

    Args:
        argv: without the program's name.
        environ: the process environment, if it is not `os.environ`.

    Returns:
        The exit code, by sysexits(3).
    """
    try:
        options, words = _hoist(argv)
        code = _call(options, words, dict(os.environ if environ is None else environ))
        sys.stdout.flush()
        return code
    except typer.Exit as left:
        return left.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return BY_SIGINT
    except Interrupted as signalled:
        return signalled.exit_code
    except TyperException as error:
        return _explain_usage(error)
    except ConfigurationError as error:
        for problem in error.problems:
            complain(problem)
        return error.exit_code
    except BrokenPipeError:
        # the reader of our output has gone; nothing is left to tell anyone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback for users
        return _explain(error, verbose="-v" in argv or "--verbose" in argv)


def _call(options: list[str], words: list[str], environ: Mapping[str, str]) -> int:
    first = next((word for word in words if not word.startswith("-")), None)
    command = typer.main.get_command(build(first if first in COMMANDS else None, environ))
    gc.enable()
    # not command.main(): that one has its own ideas about closed pipes
    with command.make_context("ingestd", options + words) as context:
        value = command.invoke(context)
    return value if isinstance(value, int) else 0


def _explain_usage(error: TyperException) -> int:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if message.startswith("Usage:"):
        sys.stderr.write(message.rstrip() + "\n")
    elif message:
        usage = re.sub(r"[\s{}]+", " ", context.get_usage()).strip() if context else "see `ingestd --help`"
        complain(_no_such_option(message, context) or _reworded(message), hint=usage)
    return USAGE


_WORDINGS = (
    (r"No such command '(.*?)'\.(?: Did you mean '(.*?)'\?)?", r'there is no command "\1"'),
    (r"Missing (?:argument|option) '(.*?)'\.?", r"\1 is missing"),
    (r"Invalid value for '(.*?)': ", r"\1: "),
    (r"Got unexpected extra argument\(?s?\)? \((.*)\)", r'too many arguments: "\1"'),
    (r"Input should be a valid (?:integer|number).*", "must be a whole number"),
    (r"Input should be greater than or equal to (.*)", r"must be at least \1"),
    (r"Input should be less than or equal to (.*)", r"must be at most \1"),
)


def _reworded(message: str) -> str:
    near = re.search(r"Did you mean '(.*?)'", message)
    for pattern, words in _WORDINGS:
        message = re.sub(pattern, words, message, flags=re.DOTALL)
    return f'{message}, did you mean "{near[1]}"?' if near else message


def _no_such_option(message: str, context: typer.Context | None) -> str | None:
    """Looked for among the global options too: those are taken out before a command sees what was written."""
    unknown = re.match(r"No such option: (\S+)", message)
    if not unknown:
        return None
    from ingestd.settings import did_you_mean

    options = context.command.params if context else ()
    known = [name for option in options for name in (*option.opts, *option.secondary_opts) if name.startswith("-")]
    return f"there is no option {unknown[1]}{did_you_mean(unknown[1], [*known, *_VALUES, *_FLAGS])}"


def _explain(error: Exception, *, verbose: bool) -> int:
    if verbose and not isinstance(error, IngestdError):
        traceback.print_exc()
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG):
        complain(f"cannot write: {error.strerror}")
        # Python would try once more to write what is left, and complain in its own way
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CANNOT_WRITE
    known = error if isinstance(error, IngestdError) else _known(error)
    if known is None:
        hint = "" if verbose else "; run again with -v for the traceback"
        complain(f"internal error: {type(error).__name__}: {error}", hint=f"this is a bug in ingestd{hint}")
        return BUG
    complain(known.message, hint=known.hint)
    return known.exit_code


def _known(error: Exception) -> IngestdError | None:
    """What Postgres and the file system say about the world is not our bug."""
    if isinstance(error, PermissionError):
        return Refused(f"{error.filename or 'access'}: {error.strerror}")
    postgres = sys.modules.get("asyncpg")
    if postgres is None:
        return None
    from ingestd.postgres.outage import OUTAGE

    if isinstance(error, postgres.InsufficientPrivilegeError):
        return Refused(f"Postgres refuses: {error}", hint="ingestd needs a role that owns the schemas ingestd, ingestd_stg and rollups")
    if isinstance(error, postgres.ReadOnlySQLTransactionError):
        return Refused(f"Postgres refuses: {error}", hint="this server is a replica: [database] url must name the primary")
    if isinstance(error, (*OUTAGE, asyncio.IncompleteReadError)) and not isinstance(error, FileNotFoundError):
        return DatabaseUnreachable(f"the connection to Postgres was lost: {str(error) or type(error).__name__}")
    return None


def _hoist(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take the global options out, so that they may stand anywhere; psql's own must reach psql."""
    front: list[str] = []
    rest: list[str] = []

    def psql(before: list[str]) -> bool:
        return before[:1] == ["psql"]

    if strange := next((word for word in argv if not _is_text(word)), None):
        raise UsageError(f'"{strange}" is not UTF-8 text', hint="a file with such a name has to be renamed first")
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--config" or (word in _VALUES and not psql(rest)):
            value = next(words, "")
            called, example = _VALUES[word]
            if not value or (value.startswith("-") and value != "-"):
                raise UsageError(f"{word} needs a {called}", hint=f"write {word} {example}")
            front += [word, value]
        elif word.startswith("--config=") or ((word in _FLAGS or word.startswith(("--url=", "--token="))) and not psql(rest)):
            front.append(word)
        else:
            rest.append(word)
    return front, rest


def _is_text(word: str) -> bool:
    # what is not comes as lone surrogates, which neither a database nor a log can hold
    return not any("\ud800" <= character <= "\udfff" for character in word)


def build(chosen: str | None, environ: Mapping[str, str]) -> typer.Typer:
    """Assemble the commands: the chosen one's module whole, of the others only what the overview says.

    Args:
        chosen: the word after `ingestd`, None for the overview.
    """
    app = typer.Typer(
        name="ingestd",
        help="Import data into Postgres, keep rollups of it, run your jobs, and watch it all.",
        epilog=EPILOG,
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
        url: str = typer.Option("", "--url", metavar="URL", help="Ask the daemon there, not the database; also INGESTD_URL."),
        token: str = typer.Option("", "--token", metavar="TOKEN", help="What to ask it with; better in INGESTD_TOKEN, which nobody sees."),
        json: bool = typer.Option(False, "--json", help="Print one JSON document on stdout."),
        verbose: bool = typer.Option(False, "-v", "--verbose", help="More log lines, and tracebacks."),
        quiet: bool = typer.Option(False, "-q", "--quiet", help="Only warnings and errors."),
        version: bool = typer.Option(False, "--version", help="Print the version and leave."),
    ) -> None:
        if version:
            typer.echo(__version__)
            raise typer.Exit
        if ctx.invoked_subcommand is None:
            sys.stderr.write(ctx.get_help() + "\n")
            raise typer.Exit(USAGE)
        address, secret = _remote(ctx.invoked_subcommand, url, token, environ)
        ctx.obj = Shell(config_files=config, json=json, verbose=verbose, quiet=quiet, address=address, token=secret, environ=environ)

    wanted = COMMANDS[chosen].module if chosen else None
    for name, command in COMMANDS.items():
        if command.module != wanted:
            app.command(name, help=command.line)(_overview_only)
    if wanted:
        importlib.import_module(f"ingestd.cli.{wanted}").add_to(app)
    return app


def _remote(command: str | None, url: str, token: str, environ: Mapping[str, str]) -> tuple[Address | None, str]:
    """The daemon elsewhere that a command is to ask, and with which token.

    Raises:
        UsageError: the command can ask none, or the options make no sense.
    """
    given, source = (url, "--url") if url else (environ.get("INGESTD_URL", ""), "INGESTD_URL")
    side = COMMANDS[command].side if command in COMMANDS else "machine"
    if side == "machine" and not url and not token:
        return None, ""
    if given and side != "either":
        here = "leave --url out" if url else "unset INGESTD_URL"
        hint = f"{COMMANDS[command].elsewhere}; or {here}" if command in COMMANDS and COMMANDS[command].elsewhere else here
        raise UsageError(f"{command} works on this machine, not through a daemon elsewhere", hint=hint)
    if token and not given:
        raise UsageError("--token is for a daemon elsewhere: give its --url as well")
    if not given:
        return None, ""
    secret = check_token(token, "--token") if token else check_token(environ.get("INGESTD_TOKEN", ""), "INGESTD_TOKEN")
    return read_address(given, source), secret


def _overview_only() -> None:
    raise AssertionError("its module was not imported")
