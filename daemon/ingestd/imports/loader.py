"""A small pool of warm loader processes. The daemon itself never parses a file and never imports Arrow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ingestd.children import ChildDied, ChildProcess
from ingestd.errors import DatabaseUnreachable, IngestdError, StaleClaim
from ingestd.events import Bus, Notice
from ingestd.imports.request import LoaderDied, LoadOutcome, LoadRequest, LoadTrouble
from ingestd.logging import without_secrets

LOADS_A_PROCESS = 200
MEMORY_A_PROCESS = 160 << 20
START_TIMEOUT_S = 60.0
# The child says every 5 s that its loop turns.
SILENCE_S = 90.0
LONGEST_LINE = 4 << 20
_ERRORS: dict[str, type[IngestdError]] = {"stale": StaleClaim, "unreachable": DatabaseUnreachable}
Progress = Callable[[float, str], None]


class LoaderPool:
    """Runs loads in child processes, each with its own Postgres connection; a child is started when first needed.

    Args:
        dsn: PostgreSQL URL that children connect to.
        size: children at most, and loads at once.
        application_name: of this node; children add `:loader`.
        bus: told when a child dies.
    """

    def __init__(self, dsn: str, *, size: int = 2, application_name: str, bus: Bus, pooled: bool = False) -> None:
        self._dsn = dsn
        self._pooled = pooled
        self._name = f"{application_name}:loader"
        self._bus = bus
        self._size = size
        self._idle: asyncio.Queue[_Child | None] = asyncio.Queue()
        self._children: set[_Child] = set()
        self._open = False

    async def start(self) -> None:
        """Be ready for loads; starts no process yet."""
        self._open = True
        for _ in range(self._size):
            self._idle.put_nowait(None)

    async def close(self) -> None:
        """End all children; a load still under way is rolled back."""
        self._open = False
        await asyncio.gather(*(child.stop() for child in tuple(self._children)))
        self._children.clear()

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that live."""
        return [child.pid for child in self._children]

    async def load(self, request: LoadRequest, on_progress: Progress) -> LoadOutcome:
        """Run one load in a child; the outcome is committed, together with the completion of its job.

        Cancelling kills the child, and with it the load.

        Args:
            request: the load.
            on_progress: called with (fraction done, a few words).

        Raises:
            LoaderDied: the child ended in the middle; nothing was committed, unless it died after the commit.
            LoadTrouble: nothing was written; trying again may help.
            DatabaseUnreachable: Postgres does not answer.
            StaleClaim: the job belongs to somebody else by now; nothing was written.
        """
        if not self._open:
            raise LoadTrouble("the loader is closed")
        child = await self._idle.get()
        keep: _Child | None = None
        try:
            if child is None or not child.alive:
                await self._discard(child)
                child = await self._start_child()
            answer = await child.run(request, on_progress)
            keep = child
        except LoaderDied as error:
            self._bus.emit(Notice("loader process died", "error", {"load": request.load_id, "error": error.message}))
            raise
        finally:
            # Also when cancelled: the child may be in the middle of the load, and nobody will read its answer.
            try:
                if keep is None or keep.worn:
                    keep = None
                    await self._discard(child)
            finally:
                self._idle.put_nowait(keep)
        if isinstance(answer, IngestdError):
            raise answer
        return answer

    async def _start_child(self) -> _Child:
        try:
            return await self._start_one()
        except LoaderDied:
            # It had no load yet. A Ctrl-C may have reached it between the fork and the session of its own.
            return await self._start_one()

    async def _start_one(self) -> _Child:
        child = await _Child.start(self._bus)
        self._children.add(child)
        try:
            await child.greet(self._dsn, self._name, pooled=self._pooled)
        except BaseException:
            await self._discard(child)
            raise
        return child

    async def _discard(self, child: _Child | None) -> None:
        if child is not None:
            await child.stop()
            self._children.discard(child)


class _Child:
    """One loader process and the conversation with it."""

    def __init__(self, process: ChildProcess) -> None:
        self._process = process
        self._loads = 0
        self._memory = 0

    @classmethod
    async def start(cls, bus: Bus) -> _Child:
        """Start one; what it says on stderr is told."""
        process = await ChildProcess.start(
            "ingestd.imports.child",
            on_words=lambda pid, text: bus.emit(Notice("loader process said something", "warning", {"pid": pid, "text": text})),
            longest_line=LONGEST_LINE,
            env={"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.alive

    @property
    def worn(self) -> bool:
        """Whether it should be replaced before the next load."""
        return not self.alive or self._loads >= LOADS_A_PROCESS or self._memory > MEMORY_A_PROCESS

    async def greet(self, dsn: str, application_name: str, *, pooled: bool) -> None:
        """Tell it where Postgres is (over stdin: a command line can be read by others) and wait until it is ready."""
        await self._send({"hello": {"dsn": dsn, "application_name": application_name, "pooled": pooled}})
        while "ready" not in await self._receive(START_TIMEOUT_S):
            pass

    async def run(self, request: LoadRequest, on_progress: Progress) -> LoadOutcome | IngestdError:
        """Run one load: its outcome, or the error it answered with; after either the child is as good as before."""
        self._loads += 1
        self._process.work_for_caller()
        await self._send({"load": request.to_json()})
        while True:
            message = await self._receive(SILENCE_S)
            self._memory = message.get("memory", self._memory)
            if "progress" in message:
                on_progress(*message["progress"])
            elif "outcome" in message:
                return LoadOutcome.from_json(message["outcome"])
            elif "trouble" in message:
                kind, text = message["trouble"]
                return _ERRORS.get(kind, LoadTrouble)(without_secrets(text))

    async def stop(self) -> None:
        """Kill it and see it gone."""
        await self._process.stop()

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self._process.send(message)
        except ChildDied as error:
            raise LoaderDied(f"the loader process {error}") from None

    async def _receive(self, silence_s: float) -> dict[str, Any]:
        try:
            return await self._process.receive(silence_s)
        except ChildDied as error:
            raise LoaderDied(f"the loader process {error}") from None
