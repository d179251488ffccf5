"""A command's session with the configured database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from ingestd.app.database import Location, locate
from ingestd.app.settings import Settings
from ingestd.cause import REQUEST
from ingestd.cli.shell import Shell, complain
from ingestd.errors import NotFound
from ingestd.postgres.migrate import set_up
from ingestd.postgres.session import connect
from ingestd.work.store import nodes

SILENT_S = 15.0


@dataclass
class Session:
    """A connection to the configured database, which has the schema of this version."""

    settings: Settings
    location: Location
    conn: asyncpg.Connection

    async def live(self) -> asyncpg.Connection:
        """The connection, or a new one where it was lost meanwhile.

        Raises:
            DatabaseUnreachable: Postgres does not answer.
        """
        if self.conn.is_closed():
            self.conn = await connect(self.location.dsn, application_name="ingestd:cli", pooled=self.location.pooled)
        return self.conn

    async def tell_if_nobody_works(self, shell: Shell) -> None:
        """What was enqueued waits while no daemon runs: say so, or it looks as if it were lost."""
        if not shell.quiet:
            tell_unless_one_works(await nodes(self.conn))


def tell_unless_one_works(known: Iterable[Mapping[str, Any]]) -> None:
    """Say that nobody takes up what was enqueued.

    Args:
        known: the nodes.
    """
    if not any(_works(node) for node in known):
        complain("no daemon works on this database now: the job waits for one (`ingestd run`)")


def _works(node: Mapping[str, Any]) -> bool:
    return bool(node["state"] == "running" and "work" in node["duties"] and node["silent_s"] < SILENT_S)


@asynccontextmanager
async def session(shell: Shell) -> AsyncIterator[Session]:
    """Open the configured database for one command, on an empty machine too: the embedded server is joined or started.

    The configuration is not applied: only a daemon does that, and a command run with another file must not undo it. Nor is an
    older database upgraded, below daemons that may not know the new schema.
    """
    REQUEST.set(shell.correlation_id)
    settings = shell.settings()
    async with locate(settings, shell.report) as location:
        opened = Session(settings, location, await connect(location.dsn, application_name="ingestd:cli", pooled=location.pooled))
        try:
            await set_up(opened.conn)
            yield opened
        finally:
            await opened.conn.close(timeout=5)


def not_in_service(noun: str, name: str) -> NotFound:
    """The error for what stands in the configuration but not in the database."""
    return NotFound(
        f'{noun} "{name}" is declared, but not in service yet', hint="a daemon puts it in service when it starts: `ingestd run`"
    )


@contextmanager
def in_service(noun: str, name: str, declared: Mapping[str, object]) -> Iterator[None]:
    """What is not found inside, although the configuration declares it, is just not in service yet: say so."""
    try:
        yield
    except NotFound:
        if name in declared:
            raise not_in_service(noun, name) from None
        raise


def nothing_in_service(noun: str, declared: Mapping[str, object]) -> str:
    """What to say in place of an empty list."""
    if not declared:
        return f"no {noun}s are declared"
    return f"no {noun}s are in service yet: a daemon puts the declared ones in service when it starts (`ingestd run`)"
