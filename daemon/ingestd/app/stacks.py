"""What every thread and task of this process is doing right now, for the log."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType

MOST_FRAMES = 30
MOST_NAMES = 20


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack, and all that are at it.

    Args:
        what: `thread` or `task`.
        names: some of those that are there.
        count: of them all.
        text: the stack, the innermost line last.
    """

    what: str
    names: tuple[str, ...]
    count: int
    text: str

    @property
    def title(self) -> str:
        """Who is there, in a line."""
        more = f" and {self.count - len(self.names)} more" if self.count > len(self.names) else ""
        return f"{self.what if self.count == 1 else f'{self.count} {self.what}s'}: {', '.join(self.names)}{more}"


def snapshot(loop: asyncio.AbstractEventLoop, frame: FrameType | None = None) -> list[Stack]:
    """All threads, then all tasks of a loop; those at the same place are one entry.

    Called on the loop's own thread, even in the middle of whatever blocks it: a task does not move meanwhile.

    Args:
        frame: where the calling thread was when it was interrupted.
    """
    here = threading.get_ident()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()  # noqa: SLF001 - the documented way to other threads' stacks
    threads = (
        (names.get(ident, str(ident)), _of_frame(frame if ident == here and frame is not None else found))
        for ident, found in frames.items()
    )
    return [*_grouped("thread", threads), *_grouped("task", ((task.get_name(), _of_task(task)) for task in asyncio.all_tasks(loop)))]


class StackDump:
    """A signal's handler: takes the snapshot in the very place that was interrupted, and has another thread write it.

    A handler that wrote by itself could meet its own thread in the middle of writing.

    Args:
        loop: whose tasks are shown; it runs on the main thread.
        write: takes the snapshot, on a thread of its own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, write: Callable[[list[Stack]], None]) -> None:
        self._loop = loop
        self._write = write

    def __call__(self, _number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        found = snapshot(self._loop, frame)
        threading.Thread(target=self._write, args=(found,), name="stacks", daemon=True).start()


def _grouped(what: str, stacks: Iterable[tuple[str, str]]) -> list[Stack]:
    at: dict[str, list[str]] = defaultdict(list)
    for name, text in stacks:
        at[text].append(name)
    return [Stack(what, tuple(sorted(names)[:MOST_NAMES]), len(names), text) for text, names in at.items()]


def _of_frame(frame: FrameType) -> str:
    return "".join(traceback.format_stack(frame)[-MOST_FRAMES:])


def _of_task(task: asyncio.Task[object]) -> str:
    """The whole chain of awaits: a task's own `get_stack` knows only the outermost coroutine."""
    lines: list[str] = []
    waiting: object = task.get_coro()
    while waiting is not None and len(lines) < MOST_FRAMES:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            break
        lines += traceback.format_list(traceback.extract_stack(frame, limit=1))
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return "".join(lines) or "not begun or already over\n"
