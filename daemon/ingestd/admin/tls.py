"""The listener that speaks TLS. A connection counts from its first packet: one that never begins to speak costs as much as any other."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from ingestd.admin.connections import HANDSHAKE_S, Connections
from ingestd.events import Bus
from ingestd.service import Poller


class TlsListener:
    """Accepts connections, and passes on those that speak TLS.

    The loop's own server would tell of a connection only after its handshake, and hold any number of them until then.

    Args:
        sock: listens.
        tls: what they have to speak.
        make: the factory of what serves one that does.
        connections: are told of it.
        bus: where it is told that none can be accepted.
    """

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext, make: Callable[[], Any], connections: Connections, bus: Bus) -> None:
        self._sock = sock
        self._tls = tls
        self._make = make
        self._connections = connections
        self._accepting = asyncio.create_task(Poller("TLS listener", self._accept, bus).run(), name="TLS listener")

    def close(self) -> None:
        """Accept nothing more."""
        self._accepting.cancel()
        self._sock.close()

    async def _accept(self) -> float:
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(self._sock)
            handshake = _Handshake(accepted)
            handshake.task = asyncio.create_task(self._shake_hands(handshake), name="TLS handshake")
            self._connections.entered(handshake)

    async def _shake_hands(self, handshake: _Handshake) -> None:
        handshake.began = True
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connections.watch(self._make, handshake), handshake.sock, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_S
            )
        except OSError:  # it speaks something else, or has gone
            return
        finally:
            self._connections.left(handshake)


class _Handshake:
    """A connection that does not speak TLS yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.task: asyncio.Task[None] | None = None
        self.began = False

    def abort(self) -> None:
        """End it, to make room or because it takes too long."""
        if self.task is not None:
            self.task.cancel()
        if not self.began:  # then nobody else closes it: hundreds may be accepted before the first task has its turn
            self.sock.close()
