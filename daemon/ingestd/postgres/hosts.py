"""Opening a session where the URL names several servers: the one that takes writes, however long another one says nothing.

The driver asks one host after the other within one timeout, so a first host whose machine hangs would use it up every time, and the
server that has taken over would never be asked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

# A host that has not answered for so long is no longer waited for alone: the next one is asked as well.
NEXT_AFTER_S = 1.0
DEFAULT_PORT = 5432

Place = tuple[str, int]


def places(dsn: str) -> list[Place]:
    """The servers that a URL names as (host, port), in its order; the numbers of hosts and ports need not agree.

    Raises:
        ValueError: a port is no number.
    """
    parts = urlsplit(dsn)
    given = parse_qs(parts.query)
    listed = parts.netloc.rpartition("@")[2] or given.get("host", [""])[-1]
    hosts, ports = zip(*(_host_and_port(word) for word in listed.split(",")), strict=True)
    others = [int(word) for word in given.get("port", [""])[-1].split(",") if word]
    found = []
    for number, (host, port) in enumerate(zip(hosts, ports, strict=True)):
        other = others[min(number, len(others) - 1)] if others else DEFAULT_PORT
        found.append((host, port or other))
    return found


def _host_and_port(word: str) -> tuple[str, int | None]:
    host, colon, port = word.rpartition(":")
    if not colon or (word.startswith("[") and word.endswith("]")) or (":" in host and not host.endswith("]")):
        return unquote(word).strip("[]"), None
    return unquote(host).strip("[]"), int(port) if port else None


async def open_session(dsn: str, *, timeout: float, **options: Any) -> asyncpg.Connection:
    """Connect as `asyncpg.connect` does; of several servers, to the one that takes writes, unless the URL asks for something else.

    Args:
        timeout: for all of it, in seconds.
        options: further arguments of `asyncpg.connect`.
    """
    several = places(dsn) if "," in dsn else []
    if len(several) < 2:
        return await asyncpg.connect(dsn, timeout=timeout, **options)
    if "target_session_attrs=" not in dsn and "PGTARGETSESSIONATTRS" not in os.environ:
        options["target_session_attrs"] = "read-write"
    async with asyncio.timeout(timeout):
        return await _first([_attempt(dsn, place, timeout, options) for place in several], [f"{host}:{port}" for host, port in several])


def _attempt(dsn: str, place: Place, timeout: float, options: dict[str, Any]) -> Callable[[], Coroutine[Any, Any, asyncpg.Connection]]:
    host, port = place
    return lambda: asyncpg.connect(dsn, host=host, port=port, timeout=timeout, **options)


async def _first(attempts: list[Callable[[], Coroutine[Any, Any, asyncpg.Connection]]], names: list[str]) -> asyncpg.Connection:
    """The first that succeeds; each one begins when those before it have failed, or have said nothing for a second.

    Raises:
        asyncpg.PostgresError: none did, and one server refuses the login.
        ConnectionError: none did; says why, host by host.
    """
    running: dict[asyncio.Task[asyncpg.Connection], str] = {}
    failed: dict[str, BaseException] = {}
    chosen: asyncpg.Connection | None = None
    left = list(zip(attempts, names, strict=True))
    try:
        while chosen is None and (left or running):
            if left:
                attempt, name = left.pop(0)
                running[asyncio.create_task(attempt(), name=f"connect to {name}")] = name
            done, _ = await asyncio.wait(running, timeout=NEXT_AFTER_S if left else None, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is not None:
                    failed[running.pop(task)] = error
                elif chosen is None:
                    chosen = task.result()
                    del running[task]
    finally:
        for task in running:
            task.cancel()
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(outcome, asyncpg.Connection):
                outcome.terminate()
    if chosen is not None:
        return chosen
    refused = next((error for error in failed.values() if isinstance(error, asyncpg.PostgresError)), None)
    if refused is not None:
        raise refused
    raise ConnectionError("; ".join(f"{name}: {_words(error)}" for name, error in failed.items()))


def _words(error: BaseException) -> str:
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "takes no writes"
    return getattr(error, "strerror", None) or str(error) or "no answer"
