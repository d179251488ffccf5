"""The two sides that every group has, and which of them a command is on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from ingestd.cli.session import Session, session, tell_unless_one_works
from ingestd.cli.shell import Shell

if TYPE_CHECKING:
    from ingestd.cli.api import Api

N = TypeVar("N", bound="Near")
F = TypeVar("F", bound="Far")
# What holds rows of ours; everything else that is nested belongs to users and stays as it is.
_ROWS = frozenset(
    {"items", "children", "steps", "last_run", "last_slot", "sample", "run", "runs", "running", "last_success", "last_failure", "lanes"}
)
# So many are more than there are of what is declared.
ALL = 1_000_000
_MOMENTS = frozenset({"at", "minute", "from", "to", "first_seen", "last_seen", "last_refresh", "since"})


class Near:
    """The configured database.

    Args:
        shell: the command's invocation.
        opened: its session with the database.
    """

    def __init__(self, shell: Shell, opened: Session) -> None:
        self.shell = shell
        self.opened = opened
        self.conn = opened.conn
        self.settings = opened.settings
        self.actor = shell.actor

    async def tell_if_nobody_works(self) -> None:
        """Say so if no daemon will take up what was enqueued."""
        await self.opened.tell_if_nobody_works(self.shell)


class Far:
    """A daemon elsewhere.

    Args:
        shell: the command's invocation.
        api: the daemon's API.
    """

    def __init__(self, shell: Shell, api: Api) -> None:
        self.shell = shell
        self.api = api

    async def tell_if_nobody_works(self) -> None:
        """Say so if no node will take up what was enqueued: the daemon that answered may only serve."""
        if not self.shell.quiet:
            tell_unless_one_works((await self.api.get("/api/v1/nodes"))["items"])


@asynccontextmanager
async def reach(shell: Shell, near: type[N], far: type[F]) -> AsyncIterator[N | F]:
    """The side that this invocation is about."""
    if shell.address is None:
        async with session(shell) as opened:
            yield near(shell, opened)
        return
    # Only now: what speaks HTTP takes its time to import.
    from ingestd.cli.api import connect_api

    shell.warn_if_overheard()
    async with connect_api(shell.address, shell.token, shell.actor.correlation_id) as api:
        yield far(shell, api)


def rows(document: Any) -> Any:
    """An answer of the API as the database would have given it: with moments that know how to be shown."""
    if isinstance(document, list):
        return [rows(item) for item in document]
    if not isinstance(document, Mapping):
        return document
    return {
        key: _moment(value) if key.endswith(("_at", "_until")) or key in _MOMENTS else rows(value) if key in _ROWS else value
        for key, value in document.items()
    }


def _moment(value: Any) -> Any:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return value


def items(document: Any) -> list[dict[str, Any]]:
    """The rows of a list."""
    found: list[dict[str, Any]] = rows(document["items"])
    return found


def row(document: Any) -> dict[str, Any]:
    """One row."""
    found: dict[str, Any] = rows(document)
    return found
