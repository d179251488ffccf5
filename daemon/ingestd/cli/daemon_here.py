"""The daemon of this machine's configuration, asked over its own HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ingestd.app.settings import Settings
from ingestd.cli.address import Address
from ingestd.cli.api_errors import DaemonUnreachable
from ingestd.cli.shell import Shell

if TYPE_CHECKING:
    from ingestd.cli.api import Api


@asynccontextmanager
async def ask_daemon(shell: Shell) -> AsyncIterator[Api]:
    """The daemon that --url names, or else the one that the configuration runs here.

    Raises:
        DaemonUnreachable: none runs here.
    """
    # Only now: what speaks HTTP takes its time to import.
    from ingestd.cli.api import connect_api

    if shell.address is not None:
        shell.warn_if_overheard()
        async with connect_api(shell.address, shell.token, shell.correlation_id) as api:
            yield api
        return
    settings = shell.settings()
    token = settings.admin.token.get_secret_value()
    async with connect_api(_address(settings), token, shell.correlation_id, settings.admin.tls_cert) as api:
        yield api


def _address(settings: Settings) -> Address:
    admin = settings.admin
    if admin.socket is not None and admin.socket.is_socket():
        return Address("http://localhost", str(admin.socket))  # the kernel says who asks there: it takes no token
    port = _port(settings)
    if not port:
        raise DaemonUnreachable(f"no daemon is running with the state folder {settings.daemon.state_dir}")
    # who serves on all addresses serves on loopback
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(admin.host, admin.host)  # noqa: S104 - not bound, asked
    name = f"[{host}]" if ":" in host else host
    return Address(f"{'https' if admin.tls_cert else 'http'}://{name}:{port}")


def _port(settings: Settings) -> int:
    """The port that the running daemon wrote down, else the configured one."""
    try:
        return int((settings.daemon.state_dir / "admin.port").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return settings.admin.port
