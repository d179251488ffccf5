"""One process that runs handlers of one kind, kept warm between them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import Any

from ingestd.children import ChildDied, ChildProcess
from ingestd.jobs.registry import HandlerSpec
from ingestd.work.endings import AttemptFailed

# A module may load a large model.
START_TIMEOUT_S = 300.0
STACK_WAIT_S = 0.2


class WarmChild:
    """One process of one kind."""

    def __init__(self, process: ChildProcess, stack_fd: int) -> None:
        self.process = process
        self.stack_fd = stack_fd
        self.jobs = 0
        self.busy = True
        self.spent = False
        self.idle_since = 0.0

    def worn(self, spec: HandlerSpec) -> bool:
        """Whether a fresh one should take its place."""
        return self.spent or not self.process.alive or self.jobs >= spec.recycle_after

    async def greet(self, hello: dict[str, Any]) -> None:
        """Tell it what it is (over stdin: a command line can be read by others) and wait until it is ready.

        Raises:
            AttemptFailed: it cannot import the handler, or make what that shares.
            ChildDied: it ended.
        """
        await self.process.send({"hello": hello})
        while True:
            message = await self.process.receive(START_TIMEOUT_S)
            if "failed" in message:
                raise AttemptFailed(message["failed"])
            if "ready" in message:
                self.busy = False
                return

    async def stack(self) -> str:
        """Where all its threads are, the innermost call first; empty if it does not say so at once."""
        os.ftruncate(self.stack_fd, 0)
        os.lseek(self.stack_fd, 0, os.SEEK_SET)
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGUSR1)
        deadline = time.monotonic() + STACK_WAIT_S
        while os.fstat(self.stack_fd).st_size == 0 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.005)
        return os.pread(self.stack_fd, 16_000, 0).decode("utf-8", "replace")


def death_of(error: ChildDied) -> dict[str, Any]:
    """The end of a process as an attempt's error."""
    code = error.code
    message = error.how if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
    return {"class": "ProcessDied", "message": message, "traceback": "\n".join(error.words)}
