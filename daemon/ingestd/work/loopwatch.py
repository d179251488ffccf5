"""Watches the main loop from another thread: how long it takes to answer, and what keeps it from answering.

Nothing here needs the loop that it watches. Where C code holds the interpreter the watching thread stands still as well; it sees
the blockage when it is over, and the stack only where it is then quicker than the loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

STACK_FRAMES = 30


class LoopWatch:
    """Asks the main loop for an answer again and again. Made on the thread it watches, used from the one that watches.

    Args:
        loop: the main loop; it runs on the present thread.
        blocked_after_s: a loop that has not answered for so long is blocked, in seconds.
        on_blocked: told once a blockage, on the watching thread, with (seconds so far, stack of the loop's thread).
        on_freed: told on the watching thread when it is over, with its seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        blocked_after_s: float,
        on_blocked: Callable[[float, str], None],
        on_freed: Callable[[float], None],
    ) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._blocked_after_s = blocked_after_s
        self._on_blocked = on_blocked
        self._on_freed = on_freed
        self._asked_at: float | None = None
        self._answered_at: float | None = None
        self._lag_s = 0.0
        self._told = False

    def look(self) -> None:
        """Take the answer to the last question, ask again, and tell of a blockage; call it several times a second."""
        if self._asked_at is not None:
            answered_at = self._answered_at
            if answered_at is None:
                self._wait_on(time.monotonic() - self._asked_at)
                return
            self._lag_s = answered_at - self._asked_at
            if self._told or self._lag_s > self._blocked_after_s:
                self._told = False
                self._on_freed(self._lag_s)
        self._answered_at = None
        self._asked_at = time.monotonic()
        with suppress(RuntimeError):  # the loop is closed: the node is about to end
            self._loop.call_soon_threadsafe(self._answer)

    @property
    def blocked(self) -> bool:
        """Whether a blockage was told of and is not over."""
        return self._told

    @property
    def silent_s(self) -> float:
        """Seconds that the loop has owed its answer; 0 while it owes none."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None or self._answered_at is not None else time.monotonic() - asked_at

    @property
    def lag_ms(self) -> float:
        """Milliseconds of the last answer, or of the one that is owed if that is longer."""
        return max(self._lag_s, self.silent_s) * 1000

    def _answer(self) -> None:
        self._answered_at = time.monotonic()

    def _wait_on(self, waited_s: float) -> None:
        if waited_s > self._blocked_after_s and not self._told:
            self._told = True
            self._on_blocked(waited_s, self._stack())

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - the documented way to another thread's stack
        return "".join(traceback.format_stack(frame)[-STACK_FRAMES:]) if frame else ""
