"""The pytest plugin: `ingestd_db`, a fresh migrated database for each test that asks for one.

Nothing of ingestd is imported before a test asks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from ingestd.testing.sandbox import Sandbox

T = TypeVar("T")


class Background:
    """An event loop in a thread, so that the fixtures work whatever plugin runs the tests' own coroutines, or none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ingestd_db", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def enter(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """A context manager as a generator fixture."""
        entered = self.call(_await(manager.__aenter__()))
        try:
            yield entered
        finally:
            self.call(_await(manager.__aexit__(None, None, None)))

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _await(work: Any) -> Any:
    return await work


@pytest.fixture(scope="session")
def ingestd_background() -> Iterator[Background]:
    """Where the fixtures' own coroutines run."""
    background = Background()
    yield background
    background.close()


@pytest.fixture(scope="session")
def ingestd_server(ingestd_background: Background) -> Iterator[str]:
    """URL of the server that test databases are made on: `INGESTD_TEST_DATABASE_URL`, else an embedded one."""
    from ingestd.testing.sandbox import server

    yield from ingestd_background.enter(server())


@pytest.fixture(scope="session")
def ingestd_template(ingestd_background: Background, ingestd_server: str) -> Iterator[str]:
    """Name of the migrated database that `ingestd_db` is copied from."""
    from ingestd.testing.sandbox import template

    yield from ingestd_background.enter(template(ingestd_server))


@pytest.fixture
def ingestd_db(ingestd_background: Background, ingestd_server: str, ingestd_template: str) -> Iterator[Sandbox]:
    """A fresh migrated database of this test's own."""
    from ingestd.testing.sandbox import Sandbox, copy

    for dsn in ingestd_background.enter(copy(ingestd_server, ingestd_template)):
        yield Sandbox(dsn)
