"""Watches the main loop from another thread: how late it makes its turns, and what keeps it from making them.

The loop itself says when it is to turn again, at every moment of its life, and the watching thread looks whether it has. So no
blockage passes unseen, not even one that C code makes by holding the interpreter, when the watching thread stands still as
well: it tells of that when it is over, and of the stack only where it is then quicker than the loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

# How often the loop turns for nothing else; what blocks it for less than a moment longer is nobody's concern.
TURN_S = 0.2
STACK_FRAMES = 30


class LoopWatch:
    """Keeps the main loop turning, and tells when it does not. Made and stopped on the thread it watches, used from the one that watches.

    Args:
        loop: the main loop; it runs on the present thread.
        blocked_after_s: a loop whose turn is late by so much is blocked, in seconds.
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
        self._late_s = 0.0
        self._told = False
        # Written by the loop, taken by the watching thread.
        self._over: deque[float] = deque()
        self._expect_a_turn()

    def stop(self) -> None:
        """The loop turns for us no more, and nobody is to look any more."""
        self._timer.cancel()

    def look(self) -> None:
        """Tell of a blockage, or that it is over; call it several times a second."""
        due_at, waited_s = self._due_at, self.silent_s
        if waited_s > self._blocked_after_s and not self._told:
            stack = self._stack()
            # Otherwise the stack is of what came afterwards.
            if due_at == self._due_at:
                self._told = True
                self._on_blocked(waited_s, stack)
        while self._over:
            self._told = False
            self._on_freed(self._over.popleft())

    @property
    def blocked(self) -> bool:
        """Whether a blockage was told of and is not over."""
        return self._told

    @property
    def silent_s(self) -> float:
        """Seconds that the loop's turn has been due; 0 before it is."""
        return max(0.0, time.monotonic() - self._due_at)

    @property
    def lag_ms(self) -> float:
        """Milliseconds by which the last turn was late, or the one that is due if that is more."""
        return max(self._late_s, self.silent_s) * 1000

    def _expect_a_turn(self) -> None:
        self._due_at = time.monotonic() + TURN_S
        self._timer = self._loop.call_later(TURN_S, self._turn)

    def _turn(self) -> None:
        self._late_s = self.silent_s
        if self._late_s > self._blocked_after_s:
            self._over.append(self._late_s)
        self._expect_a_turn()

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - the documented way to another thread's stack
        return "".join(traceback.format_stack(frame)[-STACK_FRAMES:]) if frame else ""
