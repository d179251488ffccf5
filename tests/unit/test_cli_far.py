"""What answers at --url may be anything: the command says so, and goes on asking only where that does no harm."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from ingestd.cli.address import Address
from ingestd.cli.api import connect_api
from ingestd.cli.api_errors import DaemonUnreachable
from ingestd.cli.shell import Shell

HEAD = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"


def told(body: bytes, status: int = 200, length: int | None = None) -> bytes:
    return HEAD % (status, len(body) if length is None else length, body)


@contextmanager
def answering(answer: Callable[[int], bytes]) -> Iterator[tuple[Address, list[bytes]]]:
    """A server that says this to its first, second, … request, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    with server.accept()[0] as line:
                        asked.append(line.recv(65536))
                        line.sendall(answer(len(asked)))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Address(f"http://127.0.0.1:{server.getsockname()[1]}"), asked
        server.shutdown(socket.SHUT_RDWR)
    thread.join(20)


def test_an_answer_that_is_cut_off_is_asked_for_again_with_the_same_key() -> None:
    async def ask() -> object:
        async with connect_api(address) as api:
            return await api.post("/api/v1/jobs", {"kind": "x"})

    with answering(lambda n: told(b'{"id"', length=100) if n < 3 else told(b'{"id": "7"}', 201)) as (address, asked):
        assert asyncio.run(ask()) == {"id": "7"}
    keys = {next(line for line in request.split(b"\r\n") if line.startswith(b"Idempotency-Key")) for request in asked}
    assert (len(asked), len(keys)) == (3, 1)


def test_pages_without_an_end_come_to_one() -> None:
    async def ask() -> object:
        async with connect_api(address) as api:
            return await api.pages("/api/v1/jobs", 100)

    with (
        answering(lambda _: told(b'{"items": [], "next_cursor": "same"}')) as (address, _),
        pytest.raises(DaemonUnreachable, match="one page of /api/v1/jobs again and again"),
    ):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (told(b"{}"), "does not answer as ingestd .* does .KeyError: 'items'."),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is not ingestd: it speaks no HTTP"),
        (told(b"{}", 302), "is not ingestd"),
    ],
)
def test_what_is_not_ingestd_is_no_bug_of_ours(answer: bytes, said: str) -> None:
    async def ask() -> None:
        async with connect_api(address) as api:
            (await api.get("/api/v1/queues"))["items"]

    with answering(lambda _: answer) as (address, _), pytest.raises(DaemonUnreachable, match=said):
        Shell(address=address, quiet=True).run(ask())
