"""The admin server's life: bind, serve, stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import ExitStack, suppress
from pathlib import Path

from aiohttp import web

from ingestd.admin.admission import Admission
from ingestd.admin.api import all_routes
from ingestd.admin.binding import BACKLOG, SocketFile, bind, bind_socket
from ingestd.admin.connections import CONFIGURED, KEEP_ALIVE_S, Connections
from ingestd.admin.denials import Denials
from ingestd.admin.guard import Hosts
from ingestd.admin.identity import Identity
from ingestd.admin.limits import Limits
from ingestd.admin.middleware import Surroundings, outermost, outside, serve
from ingestd.admin.pages import Pages
from ingestd.admin.protocol import Protocol
from ingestd.admin.routes import Routes
from ingestd.admin.settings import AdminSettings
from ingestd.admin.state import AdminState
from ingestd.admin.tls import TlsListener
from ingestd.errors import ConfigurationError, DatabaseUnreachable
from ingestd.events import Notice
from ingestd.health.checks import HealthRunner
from ingestd.health.metrics import Metrics

MAX_BODY_BYTES = 2 << 20  # arguments of a job take half of it
LINGER_S = 2.0  # how long to read on from who sends a body that nobody wants
SHUTDOWN_GRACE_S = 2.0
AROUND = web.AppKey("around", Surroundings)
# What aiohttp would log is that somebody sent what is no HTTP, with a traceback each time: anybody could fill the log with it.
_QUIET = logging.Logger("aiohttp.server", logging.CRITICAL)
# Bodies are taken as they come: a megabyte that unpacks to a gigabyte would hold up everybody, and whoever sends it needs no token.
_PROTOCOL = {
    "access_log": None,
    "logger": _QUIET,
    "keepalive_timeout": KEEP_ALIVE_S,
    "lingering_time": LINGER_S,
    "auto_decompress": False,
}


def build(
    state: AdminState, settings: AdminSettings, port: int, connections: Connections | None = None
) -> tuple[web.Application, Metrics, Routes]:
    """Make the application out of the registry of routes and nothing else.

    Args:
        port: the port that is bound, for the Host check.
        connections: told when one is at work.
    """
    health = HealthRunner(state.db, state.facts, state.loops, state.state_dir)
    metrics = Metrics(state.db, state.facts, state.bus, state.node.version, state.loops)
    api = all_routes(health, metrics)
    pages = Pages(state, health, api)
    routes = Routes([*api, *pages.routes()])
    limits = Limits(settings.rate, settings.trigger_rate)
    identity = Identity(settings, state.tokens, limits)
    around = Surroundings(
        state,
        Admission(identity, limits),
        Denials(state.db, state.bus, identity.peers),
        Connections() if connections is None else connections,
        Hosts(settings.host, port, settings.public_url, own_addresses=not settings.on_loopback),
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
    app[AROUND] = around
    return app, metrics, routes


class AdminServer:
    """Serves the API, health, metrics and the page.

    Args:
        state: what its handlers may use.
        settings: where it listens.
        connections: how many there may be, and how long one may be silent.

    `url` is the address people open, `port` the port that is bound, both once it has been started.
    """

    def __init__(self, state: AdminState, settings: AdminSettings, connections: Connections | None = None) -> None:
        self._state = state
        self._settings = settings
        self._connections = Connections() if connections is None else connections
        self._runner: web.AppRunner | None = None
        self._reader: asyncio.Task[None] | None = None
        self._around: Surroundings | None = None
        self._servers: list[asyncio.Server | TlsListener] = []
        self._socket: SocketFile | None = None
        self._tls: ssl.SSLContext | None = None
        self.url = ""
        self.port = 0

    async def start(self) -> str:
        """Bind and begin to serve.

        Returns:
            The address people open; the configured public one where there is one.

        Raises:
            PortTaken: another process listens there.
            Refused: the address cannot be bound.
            ConfigurationError: others can reach it, and there is no token with which they could come in.
        """
        settings = self._settings
        with suppress(DatabaseUnreachable):  # then nobody counts as let in until it is there
            await self._state.tokens.refresh()
        self._check_tokens()
        tls = self._tls = settings.tls()
        with ExitStack() as unless_started:
            sock = unless_started.enter_context(bind(settings.host, settings.port))
            self.port = int(sock.getsockname()[1])
            local = unless_started.enter_context(self._bind_socket(settings.socket)) if settings.socket is not None else None
            await self._serve()
            await self._listen(sock, tls)
            if local is not None:
                await self._listen(local, None)
            unless_started.pop_all()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = settings.public_url or f"{'https' if tls else 'http'}://{host}:{self.port}"
        return self.url

    async def _serve(self) -> None:
        app, _, _ = build(self._state, self._settings, self.port, self._connections)
        self._around = app[AROUND]
        self._state.tokens.on_ended = self._connections.cut_off
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=SHUTDOWN_GRACE_S, logger=_QUIET, access_log=None)
        await self._runner.setup()
        self._reader = asyncio.create_task(self._state.live.poller.run(), name="live events")

    def _bind_socket(self, path: Path) -> socket.socket:
        sock, self._socket = bind_socket(path)
        return sock

    def _check_tokens(self) -> None:
        if self._settings.open_to_locals or self._settings.token.get_secret_value() or self._state.tokens.ever:
            return
        problem = "[admin]: others can reach this server, and there is no token with which anybody could come in"
        raise ConfigurationError([f"{problem}: `ingestd token create NAME --role admin` makes one, or set [admin] token"])

    async def _listen(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        assert self._runner is not None
        server, loop = self._runner.server, asyncio.get_running_loop()
        assert server is not None
        assert self._around is not None
        explain = outside(self._around)

        def make() -> Protocol:
            return Protocol(server, explain, loop=loop, **_PROTOCOL)

        factory = self._connections.watch(make)
        if sock.family == socket.AF_UNIX:
            self._servers.append(await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG))
        elif tls is not None:
            self._servers.append(TlsListener(sock, tls, make, self._connections, self._state.bus))
        else:
            self._servers.append(await loop.create_server(factory, sock=sock, backlog=BACKLOG))

    def renew(self, settings: AdminSettings) -> None:
        """Put another token and other rates in force, and the certificate as its files are now; what the old token began is ended.

        Args:
            settings: differ from those of the start in nothing that takes a restart.
        """
        if self._around is None:
            return
        if self._around.admission.renew(settings):
            self._connections.cut_off(frozenset({CONFIGURED}))
        if self._tls is None:
            return
        try:
            settings.tls()  # alone first: half a change must not get into what is in use
            settings.load(self._tls)
        except (ValueError, OSError) as error:
            self._state.bus.emit(Notice(f"the certificate stays as it was: {error}", "error"))

    async def write_denials(self) -> float:
        """Write down what was refused; returns the seconds until it is to be done again."""
        return await self._around.denials.poll() if self._around is not None else 1.0

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Stop listening and let open requests end; idempotent.

        Args:
            timeout_s: seconds after which they are cut off.
        """
        runner, self._runner = self._runner, None
        await self._state.live.finish()
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._socket is not None:
            self._socket.remove()
        if self._around is not None:
            self._around.metrics.close()
        if runner is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                if self._reader is not None:
                    await self._reader
                await runner.cleanup()
        except TimeoutError:
            return
