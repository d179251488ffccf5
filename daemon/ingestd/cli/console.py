"""What every command needs: the configuration, a session with the database, and ways to print."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingestd import logging
from ingestd.access.roles import Actor
from ingestd.app.database import Location, locate
from ingestd.app.settings import Settings, load
from ingestd.postgres.migrate import migrate
from ingestd.postgres.pool import connect, dump_json

T = TypeVar("T")
_STYLES = {
    "succeeded": "green",
    "healthy": "green",
    "current": "green",
    "fired": "green",
    "partial": "yellow",
    "degraded": "yellow",
    "retrying": "yellow",
    "late": "yellow",
    "skipped": "dim",
    "cancelled": "dim",
    "failed": "red",
    "critical": "red",
    "missed": "red",
    "running": "cyan",
}


@dataclass
class Shell:
    """One invocation of the command line.

    Args:
        config_files: as given; else `INGESTD_CONFIG`.
        json: print JSON instead of tables.
    """

    config_files: Sequence[str] = ()
    json: bool = False
    verbose: bool = False
    quiet: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def files(self) -> list[Path]:
        """The configuration files in order."""
        given = list(self.config_files) or [part for part in self.environ.get("INGESTD_CONFIG", "").split(os.pathsep) if part]
        return [Path(name) for name in given]

    def settings(self) -> Settings:
        """Read the configuration; raises with every problem it has."""
        return load(self.files, self.environ)

    @property
    def folder(self) -> Path:
        """Where the user's handler modules are looked for."""
        return Path.cwd()

    @property
    def actor(self) -> Actor:
        """Whoever runs the command: somebody with access to the database may do anything to it."""
        try:
            name = getpass.getuser()
        except (KeyError, OSError):
            name = str(os.getuid())
        return Actor(name, "admin", "cli")

    def configure_logging(self, level: str | None = None) -> None:
        """Logs go to stderr, so that stdout stays for answers."""
        chosen = "debug" if self.verbose else "warning" if self.quiet else level or "info"
        logging.configure(chosen, sys.stderr)

    def run(self, work: Coroutine[Any, Any, T], level: str = "warning") -> T:
        """Run a command's coroutine on uvloop."""
        self.configure_logging(level)
        return uvloop.run(work)

    def report(self, words: str) -> None:
        """Tell what takes time, if somebody is watching."""
        if not self.quiet:
            err = Console(stderr=True, highlight=False)
            if err.is_terminal:
                err.print(Text(f"… {words}", style="dim"))

    def answer(self, document: Any, table: Table | str | None = None) -> None:
        """Print the command's answer: JSON if asked for, else the table or text."""
        if self.json:
            sys.stdout.write(dump_json(document) + "\n")
        elif isinstance(table, str):
            sys.stdout.write(table + "\n")
        elif table is not None:
            out = Console(highlight=False)
            # into a pipe or file nothing is cut off
            out = out if out.is_terminal else Console(highlight=False, width=240)
            out.print(table)


@dataclass
class Session:
    """A connection to the configured database, migrated."""

    settings: Settings
    location: Location
    conn: asyncpg.Connection


@asynccontextmanager
async def session(shell: Shell) -> AsyncIterator[Session]:
    """Open the configured database for one command, on an empty machine too: the embedded server is joined or started.

    The configuration is not applied: only a daemon does that, and a command run with another file must not undo it.
    """
    settings = shell.settings()
    async with locate(settings, shell.report) as location:
        conn = await connect(location.dsn, application_name="ingestd:cli")
        try:
            await migrate(conn)
            yield Session(settings, location, conn)
        finally:
            await conn.close(timeout=5)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> Table:
    """A table of plain values; numbers to the right, states in their colour."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold", show_edge=False)
    materialised = [list(row) for row in rows]
    for number, name in enumerate(columns):
        numeric = bool(materialised) and all(isinstance(row[number], int | float | None) for row in materialised)
        made.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in materialised:
        made.add_row(*[cell(value) for value in row])
    return made


def cell(value: Any) -> Text:
    """One value, as text that no data can style."""
    if value is None or value == "":
        return Text("–", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, int):
        return Text(f"{value:,}")
    if isinstance(value, float):
        return Text(f"{value:,.1f}")
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
    text = str(value)
    return Text(text, style=_STYLES.get(text, ""))


def milliseconds(value: int | None) -> str | None:
    """A duration in milliseconds, for people."""
    if value is None:
        return None
    if value < 1000:
        return f"{value} ms"
    return f"{value / 1000:.1f} s" if value < 120_000 else f"{value // 60_000} min {value // 1000 % 60} s"


def complain(message: str, hint: str | None = None) -> None:
    """One line on stderr, and perhaps a second with the remedy."""
    sys.stderr.write(f"ingestd: {message}\n")
    if hint:
        sys.stderr.write(f"  {hint}\n")


def strings_for_ids(document: Any, *names: str) -> Any:
    """The same JSON document with 64-bit ids as strings, as the HTTP API has them."""
    wanted = names or ("id", "job_id", "parent_id", "workflow_run", "run", "load_id")
    if isinstance(document, list):
        return [strings_for_ids(item, *wanted) for item in document]
    if isinstance(document, Mapping):
        return {
            key: str(value) if key in wanted and isinstance(value, int) else strings_for_ids(value, *wanted)
            for key, value in document.items()
        }
    return document
