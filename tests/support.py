"""What tests share: a retrying assertion, factories, and small readers."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
# Promises in full: as often, as long and as fast as they are made, on a machine that has nothing else to do.
LONG = os.environ.get("INGESTD_LONG_TESTS") == "1"
# How many times as long as promised something may take otherwise: tests share two cores, which may be slow ones.
CROWDED = 1 if LONG else 5
# What is waited for has come long before; whoever waits as long as this waits in vain.
PATIENCE_S = 90.0


async def eventually(check: Callable[[], Awaitable[T] | T], *, timeout_s: float = PATIENCE_S, every_s: float = 0.03, saying: str = "") -> T:
    """Call `check` until it returns something true without raising, and return that.

    Raises:
        AssertionError: it did not become true within `timeout_s` seconds; says what it answered last.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        last: Any
        try:
            answer = check()
            last = await answer if asyncio.iscoroutine(answer) or asyncio.isfuture(answer) else answer
            if last:
                return last  # type: ignore[no-any-return]
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{saying or 'condition'} did not become true in {timeout_s} s; last: {last!r}")
        await asyncio.sleep(every_s)


async def draw_in_a_thread(holds: Callable[[], None]) -> None:
    """Let hypothesis draw the examples of a property whose connection lives on the running loop, for hypothesis is synchronous."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            holds()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="hypothesis")
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.01)
    if failure:
        raise failure[0]
