"""Where a coroutine or a thread is now, in the words of a traceback."""

from __future__ import annotations

import asyncio
import sys
import traceback
from types import FrameType
from typing import Any

STACK_CHARS = 8000


def coroutine_stack(task: asyncio.Task[Any]) -> str:
    """The chain of awaits a suspended task waits in, outermost first; `Task.get_stack` knows only its outermost frame."""
    frames: list[FrameType] = []
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None) or getattr(waiting, "ag_frame", None)
        if frame is None:
            break
        frames.append(frame)
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None) or getattr(waiting, "ag_await", None)
    return _worded([(frame, frame.f_lineno) for frame in frames])


def thread_stack(ident: int | None) -> str:
    """What a thread of this process executes; empty if it has ended."""
    frame = sys._current_frames().get(ident or 0)  # noqa: SLF001 - the documented way to see another thread's frames
    return _worded(list(traceback.walk_stack(frame))[::-1]) if frame is not None else ""


def _worded(frames: list[tuple[FrameType, int]]) -> str:
    return "".join(traceback.StackSummary.extract(iter(frames)).format())[-STACK_CHARS:]
