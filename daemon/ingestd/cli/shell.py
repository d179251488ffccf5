"""What one invocation of the command line carries along: the configuration, the ways to speak, and how it is interrupted.

Imported by every command and by `--help`, so nothing heavy is imported here before it is needed.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import signal
import sys
import threading
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ingestd.cause import correlation_from
from ingestd.events import Overdue

if TYPE_CHECKING:
    from rich.table import Table

    from ingestd.access.roles import Actor
    from ingestd.app.settings import Settings
    from ingestd.cli.address import Address

T = TypeVar("T")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PIPE_WIDTH = 10_000


class Interrupted(BaseException):
    """A signal ended the command; what it had opened has been closed.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@dataclass
class Shell:
    """One invocation of the command line.

    Args:
        config_files: as given; else `INGESTD_CONFIG`.
        json: print JSON instead of tables.
        address: of the daemon to ask instead of the database.
        token: what it is asked with.
    """

    config_files: Sequence[str] = ()
    json: bool = False
    verbose: bool = False
    quiet: bool = False
    address: Address | None = None
    token: str = ""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def files(self) -> list[Path]:
        """The configuration files in order."""
        given = list(self.config_files) or [part for part in self.environ.get("INGESTD_CONFIG", "").split(os.pathsep) if part]
        return [Path(name) for name in given]

    def settings(self) -> Settings:
        """Read the configuration; raises with every problem it has."""
        from ingestd.app.settings import load

        return load(self.files, self.environ)

    @property
    def folders(self) -> list[Path]:
        """Where the user's handler modules are looked for: the working directory, then beside the configuration."""
        return list(dict.fromkeys([Path.cwd(), *(file.absolute().parent for file in self.files)]))

    @cached_property
    def correlation_id(self) -> str:
        """What joins everything that this command causes: `INGESTD_CORRELATION_ID` of whoever calls it, or a new one."""
        return correlation_from(self.environ.get("INGESTD_CORRELATION_ID"))

    @property
    def actor(self) -> Actor:
        """Whoever runs the command: somebody with access to the database may do anything to it."""
        from ingestd.access.roles import Actor

        try:
            name = getpass.getuser()
        except (KeyError, OSError):
            name = str(os.getuid())
        return Actor(name, "admin", "cli", self.correlation_id)

    def warn_if_overheard(self) -> None:
        """Tell whose token goes through a network in the clear."""
        if self.token and self.address is not None and self.address.overheard and not self.quiet:
            complain(f"warning: the token goes to {self.address} unencrypted; give an https:// address, or come through a tunnel")

    def configure_logging(self, level: str | None = None, *, service: bool = False) -> None:
        """A command's log goes to stderr, so that stdout stays for answers; a service has none."""
        from ingestd import logging

        chosen = "debug" if self.verbose else "warning" if self.quiet else level or "info"
        if service:
            logging.configure_service(chosen)
        else:
            logging.configure(chosen, sys.stderr)

    def run(self, work: Coroutine[Any, Any, T], level: str = "warning", *, service: bool = False) -> T:
        """Run a command's coroutine on uvloop; a signal lets it close what it has opened.

        Args:
            level: of the log, where no option says another.
            service: it runs for long and answers nothing on stdout.

        Raises:
            DaemonUnreachable: what a daemon elsewhere answers cannot be made sense of.
            Interrupted: SIGTERM or SIGHUP came.
            KeyboardInterrupt: SIGINT came.
        """
        import uvloop

        self.configure_logging(level, service=service)
        heed_ctrl_c()
        try:
            return uvloop.run(_interruptible(work))
        except (LookupError, TypeError, AttributeError) as error:
            if self.address is None or self.verbose:
                raise
            from ingestd.cli.api_errors import no_answer_of_ours

            raise no_answer_of_ours(str(self.address), error) from error

    def report(self, words: str) -> None:
        """Tell what takes time, if somebody is watching, and what is overdue in any case."""
        if not self.quiet and (sys.stderr.isatty() or isinstance(words, Overdue)):
            sys.stderr.write(f"… {printable(words)}\n")

    def answer(self, document: Any, table: Table | str | None = None) -> None:
        """Print the command's answer: JSON if asked for, else the table or text."""
        if self.json:
            from ingestd.postgres.codecs import dump_json

            sys.stdout.write(dump_json(document) + "\n")
        elif isinstance(table, str):
            sys.stdout.write(table + "\n")
        elif table is not None:
            from rich.console import Console

            if sys.stdout.isatty():
                Console(highlight=False).print(table)
                return
            # For programs: one line a row, nothing cut off, nothing padded.
            piped = Console(highlight=False, width=_PIPE_WIDTH)
            with piped.capture() as captured:
                piped.print(table)
            sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def heed_ctrl_c() -> None:
    """From here on Ctrl-C is an exception, so that what has been opened is closed; until here it just ended the process."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    came: list[int] = []

    def interrupt(number: int) -> None:
        came.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in _catchable():
        loop.add_signal_handler(number, interrupt, number)
    try:
        return await work
    except asyncio.CancelledError:
        if came:
            raise Interrupted(came[0]) from None
        raise


def _catchable() -> list[int]:
    """The signals that are ours to handle: none in a thread, and not SIGHUP under nohup."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]


def printable(text: str) -> str:
    """Text without characters that could move the cursor, hide or colour what stands around them: data is not trusted."""
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)


def complain(message: str, hint: str | None = None) -> None:
    """One line on stderr, and perhaps a second with the remedy."""
    with suppress(OSError):
        sys.stderr.write(f"ingestd: {printable(message)}\n")
        if hint:
            sys.stderr.write(f"  {printable(hint)}\n")
