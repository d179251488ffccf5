"""A proxy between a client and Postgres that misbehaves on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 seconds: closing sends RST


class Proxy:
    """Passes bytes between clients and one Postgres until told otherwise: `async with Proxy(dsn) as proxy`.

    Args:
        dsn: URL of the real server, over TCP or a Unix socket.
    """

    def __init__(self, dsn: str) -> None:
        self._upstream = dsn
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._losing_answers = False
        self._lost_to: bytes | None = None
        self._server: asyncio.Server | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def dsn(self) -> str:
        """The URL that leads through here: same database, user and password."""
        parts = urlsplit(self._upstream)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self._port}", query=""))

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._lines)

    def cut(self) -> int:
        """Reset every connection now, on both sides; new ones are let in.

        Returns:
            How many there were.
        """
        lines, self._lines = self._lines, set()
        for line in lines:
            line.reset()
        return len(lines)

    def refuse(self) -> None:
        """Cut every connection and turn new ones away, as a server that is down does."""
        self._refusing = True
        self.cut()

    def stall(self) -> None:
        """Let no byte pass in either direction, new connections included, and close nothing: a half-open line."""
        self._flowing.clear()

    def strand(self) -> int:
        """Let no byte pass on the connections there are, ever again, and close nothing; new ones flow.

        So do connections look from here whose server was failed over, or whose firewall has forgotten them.

        Returns:
            How many there were.
        """
        victims = [line for line in self._lines if not line.stranded]
        for line in victims:
            line.stranded = True
        return len(victims)

    def lose_answers(self, to: bytes | None = None) -> None:
        """Pass on what clients say and swallow what the server answers, so that a COMMIT happens and nobody hears of it.

        Args:
            to: only on connections on which a client has said this from now on, and from there on; None: on all.
        """
        self._lost_to = to
        self._losing_answers = to is None

    @property
    def losing(self) -> int:
        """On how many connections answers are lost because of what a client has said."""
        return sum(line.losing for line in self._lines)

    def flow(self) -> None:
        """Behave again. What was stalled goes on; what was swallowed stays lost, so `cut` after `lose_answers`."""
        self._refusing = self._losing_answers = False
        self._lost_to = None
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # asyncio logs a connection's task that was cancelled; ours is, at the end of the test.
        with suppress(asyncio.CancelledError):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(writer)
        self._lines.add(line)
        try:
            await self._flowing.wait()
            if self._refusing:
                return
            answers, upstream = await self._connect()
            line.upstream = upstream
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, upstream, line, answers=False))
                both.create_task(self._pass_on(answers, writer, line, answers=True))
        except* OSError:
            pass
        finally:
            self._lines.discard(line)
            line.reset()

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, line: _Line, *, answers: bool) -> None:
        while data := await source.read(_CHUNK):
            await self._flowing.wait()
            if line.stranded:
                await line.released.wait()
                return
            if answers and (self._losing_answers or line.losing):
                continue
            if not answers and self._lost_to is not None and self._lost_to in data:
                line.losing = True
            target.write(data)
            await target.drain()
        # One side has said all it has to say, and Postgres never goes on after that.
        line.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._upstream)
        query = parse_qs(parts.query)
        host = query.get("host", [unquote(parts.hostname or "127.0.0.1")])[0]
        port = int(query.get("port", [str(parts.port or 5432)])[0])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)


class _Line:
    """One client's connection and the one to the server that goes with it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.upstream: asyncio.StreamWriter | None = None
        self.stranded = False
        self.losing = False
        self.released = asyncio.Event()

    def close(self) -> None:
        """Close both sides in order."""
        for side in self._sides():
            side.close()

    def reset(self) -> None:
        """Close both sides so that they see a reset."""
        self.released.set()
        for side in self._sides():
            sock = side.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            side.transport.abort()

    def _sides(self) -> list[asyncio.StreamWriter]:
        return [side for side in (self.client, self.upstream) if side is not None]
