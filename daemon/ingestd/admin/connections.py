"""How many connections there may be, and how long one may be silent: whoever only holds them must not keep others out.

It counts from its first packet: one that never begins to speak TLS costs as much as any other. It is idle until its request has arrived
whole, and after its answer. When there are too many, the one idle for longest makes room for the newest: a client that means it sends its
request within a moment, and is not idle from then on.
"""

from __future__ import annotations

import asyncio
import resource
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

MOST = 512
SHARE_OF_FILES = 4  # of all files that the process may have open, one in so many
FIRST_REQUEST_S = 15.0
KEEP_ALIVE_S = 75.0  # longer than proxies keep theirs, or requests would meet a connection that is just being closed
ANSWER_TAKEN_S = KEEP_ALIVE_S + 15.0  # aiohttp ends what is idle; this ends whoever does not read the answer
HANDSHAKE_S = 10.0
CONFIGURED = 0  # what a request holds that came with the token of the configuration; those of the database count from 1


class Connections:
    """The open connections of one server.

    Args:
        most: how many there may be.
        first_request_s: seconds in which a new one has to have sent a whole request.
        answer_taken_s: seconds in which it has to have taken the answer, and sent another request.
    """

    def __init__(self, most: int | None = None, first_request_s: float = FIRST_REQUEST_S, answer_taken_s: float = ANSWER_TAKEN_S) -> None:
        self.most = most or min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // SHARE_OF_FILES)
        self._first_request_s = first_request_s
        self._answer_taken_s = answer_taken_s
        self._idle: OrderedDict[Any, asyncio.TimerHandle | None] = OrderedDict()
        self._busy: dict[Any, int | None] = {}

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def watch(self, make: Callable[[], Any], handshake: Any = None) -> Callable[[], asyncio.Protocol]:
        """A protocol factory whose connections are counted here.

        Args:
            make: the factory of what really serves them.
            handshake: what one has been counted as until it speaks TLS.
        """
        return lambda: _Watched(make(), self, handshake)

    def entered(self, transport: Any) -> None:
        """A connection has been made."""
        while len(self) >= self.most and self._idle:
            oldest, timer = self._idle.popitem(last=False)
            _end(oldest, timer)
        if len(self) >= self.most:
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._idle[transport] = loop.call_later(self._first_request_s, transport.abort)

    def began(self, transport: Any) -> None:
        """Its request has arrived, and is being answered."""
        if transport in self._idle:
            if (timer := self._idle.pop(transport)) is not None:
                timer.cancel()
            self._busy[transport] = None

    def held_by(self, transport: Any, token_id: int | None) -> None:
        """The request at work came with that token; `CONFIGURED` is the configuration's."""
        if transport in self._busy:
            self._busy[transport] = token_id

    def cut_off(self, token_ids: frozenset[int]) -> None:
        """End what is at work for tokens that let nobody in any more."""
        for transport in [transport for transport, token_id in self._busy.items() if token_id in token_ids]:
            transport.abort()

    def ended(self, transport: Any) -> None:
        """The answer is on its way."""
        if transport in self._busy:
            del self._busy[transport]
            self._idle[transport] = asyncio.get_running_loop().call_later(self._answer_taken_s, transport.abort)

    def left(self, transport: Any) -> None:
        """It is closed."""
        self._busy.pop(transport, None)
        if (timer := self._idle.pop(transport, None)) is not None:
            timer.cancel()


def _end(transport: Any, timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
    transport.abort()


class _Watched(asyncio.Protocol):
    """Passes everything on, and tells of coming and going."""

    def __init__(self, inner: Any, connections: Connections, handshake: Any) -> None:
        self._inner = inner
        self._connections = connections
        self._handshake = handshake
        self._transport: Any = None

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        done: bool | None = self._inner.eof_received()
        return done

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._inner.connection_made(transport)
        self._connections.left(self._handshake)
        self._connections.entered(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.left(self._transport)
        self._inner.connection_lost(exc)
