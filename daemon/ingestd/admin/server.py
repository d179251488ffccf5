"""The admin server's life: bind, serve, stop."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket

from aiohttp import web

from ingestd.admin.api import all_routes
from ingestd.admin.guard import Hosts
from ingestd.admin.identity import Identity
from ingestd.admin.middleware import Surroundings, outermost, serve
from ingestd.admin.pages import Pages
from ingestd.admin.routes import Routes
from ingestd.admin.settings import AdminSettings
from ingestd.admin.state import AdminState
from ingestd.errors import PortTaken, Refused
from ingestd.health.checks import HealthRunner
from ingestd.health.metrics import Metrics

MAX_BODY_BYTES = 2 << 20  # arguments of a job take half of it
BACKLOG = 128
SHUTDOWN_GRACE_S = 2.0


def build(state: AdminState, settings: AdminSettings, port: int) -> tuple[web.Application, Metrics, Routes]:
    """Make the application out of the registry of routes and nothing else.

    Args:
        port: the port that is bound, for the Host check.
    """
    health = HealthRunner(state.db, state.facts, state.loops, state.state_dir)
    metrics = Metrics(state.db, state.facts, state.bus, state.node.version)
    pages = Pages(state, health)
    routes = Routes([*all_routes(health, metrics), *pages.routes()])
    around = Surroundings(
        state,
        Identity(settings.token.get_secret_value(), state.tokens),
        Hosts(settings.host, port, settings.public_url),
        metrics,
        pages.problem,
    )
    app = web.Application(middlewares=[outermost(around)], client_max_size=MAX_BODY_BYTES)
    for route in routes:
        handler = serve(around, route)
        if route.method == "GET":
            app.router.add_get(route.path, handler, allow_head=True)
        else:
            app.router.add_route(route.method, route.path, handler)
    return app, metrics, routes


class AdminServer:
    """Serves the API, health, metrics and the page.

    Args:
        state: what its handlers may use.
        settings: where it listens.

    `url` is the address people open, `port` the port that is bound, both once it has been started.
    """

    def __init__(self, state: AdminState, settings: AdminSettings) -> None:
        self._state = state
        self._settings = settings
        self._runner: web.AppRunner | None = None
        self._metrics: Metrics | None = None
        self.url = ""
        self.port = 0

    async def start(self) -> str:
        """Bind and begin to serve.

        Returns:
            The address people open; the configured public one where there is one.

        Raises:
            PortTaken: another process listens there.
            Refused: the address cannot be bound.
        """
        await self._state.tokens.refresh()
        sock = bind(self._settings.host, self._settings.port)
        self.port = int(sock.getsockname()[1])
        app, self._metrics, _ = build(self._state, self._settings, self.port)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_GRACE_S)
        await self._runner.setup()
        await web.SockSite(self._runner, sock, backlog=BACKLOG).start()
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        self.url = self._settings.public_url or f"http://{host}:{self.port}"
        return self.url

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Stop listening and let open requests end; idempotent.

        Args:
            timeout_s: seconds after which they are cut off.
        """
        runner, self._runner = self._runner, None
        if self._metrics is not None:
            self._metrics.close()
        if runner is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await runner.cleanup()
        except TimeoutError:
            return


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on a loopback address.

    Args:
        host: a loopback address, or `localhost` for IPv4's.
        port: 0: any free one.

    Raises:
        PortTaken: another process listens there.
        Refused: the address cannot be bound.
    """
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        # Listen now: two processes may bind the same port with SO_REUSEADDR as long as neither listens.
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"{host}:{port} is in use by another process",
                hint="set [admin] port (INGESTD_ADMIN__PORT) to another one, or to 0 for any free port",
            ) from None
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise Refused(f"cannot listen on {host}:{port}: {reason}", hint="set [admin] host and port") from None
    return sock
