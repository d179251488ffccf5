"""What signals ask of a running daemon, and the end of the process that nothing can hold up."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingestd.app.control import Control

FORCED = 75
# A second signal ends the process within five seconds, whatever is in its way.
FORCED_S = 4.0
LEFTOVERS_S = 1.0


def obey(control: Control) -> None:
    """Turn this process's signals into requests: SIGTERM and SIGINT drain, a second one forces, SIGHUP reloads.

    Call it on the main thread, inside the loop that runs the app.
    """
    loop = asyncio.get_running_loop()
    told = Told(control, loop)
    # Not loop.add_signal_handler: a job that blocks the loop must not make the daemon deaf.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told.stop)
    loop.add_signal_handler(signal.SIGHUP, control.reload.set)


def leave(control: Control) -> int:
    """The exit code of an app that has ended, and the end of whatever it could not end.

    Everything is written and closed by now: a thread or coroutine of a job that will not end has no say in when the process does.
    """
    code = FORCED if control.force.is_set() else 0
    leave_within(LEFTOVERS_S, code)
    return code


class Told:
    """Counts the signals that end this process.

    Args:
        control: what the app obeys.
        loop: the app's loop.
    """

    def __init__(self, control: Control, loop: asyncio.AbstractEventLoop) -> None:
        self._control = control
        self._loop = loop
        self._times = 0

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Drain at the first signal, force at the second."""
        self._times += 1
        if self._times == 2:
            leave_within(FORCED_S, FORCED)
        with suppress(RuntimeError):  # the loop is closed already: the process is ending
            self._loop.call_soon_threadsafe(self._control.stop)


def leave_within(seconds: float, code: int) -> None:
    """End the process with this code unless it has ended by itself until then."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()
