"""Child processes that take one task after another: JSON lines over stdin and stdout, and an end with their parent's.

The first half is the parent's, the second the child's. A child never outlives its parent: the kernel kills it when the parent
dies, and the end of stdin ends it as well.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

STOP_TIMEOUT_S = 5.0
WORDS_KEPT = 40
LONGEST_WORD = 500
PROGRESS_EVERY_S = 0.2
_PR_SET_PDEATHSIG = 1


class ChildDied(Exception):
    """The process ended, hung up, or fell silent.

    Args:
        how: in a few words.
        code: its exit code, negative for a signal; None while it still runs.
        words: what it wrote to stderr last.
    """

    def __init__(self, how: str, code: int | None, words: Sequence[str]) -> None:
        super().__init__(f"{how}: {words[-1]}" if words else how)
        self.how = how
        self.code = code
        self.words = list(words)


class ChildProcess:
    """A running child, seen from its parent.

    Args:
        process: it.
        on_words: called with each line that it writes to stderr.
    """

    def __init__(self, process: Process, on_words: Callable[[int, str], None]) -> None:
        self._process = process
        self._on_words = on_words
        self._words: deque[str] = deque(maxlen=WORDS_KEPT)
        self._context = contextvars.copy_context()
        self._listener = asyncio.create_task(self._hear_stderr(), name=f"child {process.pid} stderr")
        self._watch_for_its_end()

    @classmethod
    async def start(
        cls,
        module: str,
        *args: str,
        on_words: Callable[[int, str], None],
        longest_line: int,
        env: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> ChildProcess:
        """Start `python -m module PARENT_PID ARGS…`.

        Args:
            longest_line: bytes a message from it may have.
            env: added to our own environment.
            pass_fds: descriptors that stay open in it.
        """
        # -P: a module in the working directory must not pass for one of ours.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            module,
            str(os.getpid()),
            *args,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=longest_line,
            pass_fds=pass_fds,
            # Ctrl-C goes to everything in the terminal's foreground; only the parent decides when its work ends.
            start_new_session=True,
            env={**os.environ, **env},
        )
        return cls(process, on_words)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    def work_for_caller(self) -> None:
        """From now on what it writes to stderr is told in the caller's context: on behalf of the job that runs there."""
        self._context = contextvars.copy_context()

    async def send(self, message: Mapping[str, Any]) -> None:
        """Write a message to its stdin.

        Raises:
            ChildDied: it does not read any more.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(orjson.dumps(message) + b"\n")
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError):
            raise await self.death() from None

    async def receive(self, silence_s: float | None = None) -> dict[str, Any]:
        """The next message from its stdout.

        Args:
            silence_s: how long it may say nothing, in seconds; None: for ever.

        Raises:
            ChildDied: it ended, or said nothing for so long.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(silence_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise ChildDied(f"said nothing for {silence_s:g} s and was killed", None, ()) from None
        except ValueError:
            raise ChildDied("sent a message that is too long", None, ()) from None
        if not line.endswith(b"\n"):
            raise await self.death()
        message: dict[str, Any] = orjson.loads(line)
        return message

    def kill(self) -> None:
        """End it at once, with whatever it has started."""
        if self.alive:
            self._kill_group()

    async def stop(self) -> None:
        """Kill it and see it gone."""
        self.kill()
        await self._gone()
        self._listener.cancel()
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def finish(self, timeout_s: float) -> None:
        """Let it end by itself, which the end of its stdin tells it to; kill it after so many seconds."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        await self.stop()

    async def death(self) -> ChildDied:
        """How it ended."""
        await self._gone()
        code = self._process.returncode
        how = "still runs but hung up" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        return ChildDied(how, code, tuple(self._words))

    async def _gone(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
                await asyncio.shield(self._listener)

    def _watch_for_its_end(self) -> None:
        # Not by `wait`, which in some versions of asyncio waits for all that have inherited a pipe as well.
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # it has ended already, or the kernel is too old to tell
            descriptor = os.pidfd_open(self.pid)

            def ended() -> None:
                loop.remove_reader(descriptor)
                os.close(descriptor)
                self._kill_group()

            loop.add_reader(descriptor, ended)

    def _kill_group(self) -> None:
        # It leads a group of its own. What it has started would go on beside the next attempt, and keep its stderr open.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _hear_stderr(self) -> None:
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:
                continue  # longer than the buffer: what it said is lost, not the child
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()[:LONGEST_WORD]
            self._words.append(text)
            self._context.run(self._on_words, self.pid, text)


def become_child(parent: int) -> Line:
    """Make this process a child: it dies with its parent, leaves signals to it, and keeps stdout for messages.

    Args:
        parent: process id that started us.

    Returns:
        Where to write messages; whatever prints goes to stderr from now on.
    """
    die_with_parent(parent)
    # Ctrl-C and a service manager's signals reach the whole group; only the parent decides when work ends. They are heard and not
    # heeded: what is ignored stays so in every program that a handler starts, which `terminate()` could then not end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    answers = os.dup(1)
    os.dup2(2, 1)
    return Line(answers)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends.

    Args:
        parent: process id that started us; if it is gone already, we end at once.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the request took effect
        os._exit(0)


class Line:
    """Writes JSON lines to the parent, from any thread.

    Args:
        descriptor: where to.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._reported = 0.0

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one message; the process ends if nobody reads any more."""
        data = _encoded(message) + b"\n"
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                os._exit(0)

    def progress(self, fraction: float | None, text: str) -> None:
        """Report progress, a few times a second at most."""
        now = time.monotonic()
        if now - self._reported >= PROGRESS_EVERY_S:
            self._reported = now
            self.send({"progress": [None if fraction is None else round(fraction, 4), text]})


def _encoded(message: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(message, default=str)
    except TypeError:
        # Half a surrogate pair, as in an error about a file's name, or an integer beyond 64 bits: the parent hears of it all the same.
        readable = json.loads(json.dumps(message, default=str), parse_constant=lambda _: None)
        return json.dumps(readable, ensure_ascii=False).encode("utf-8", "replace")


async def open_stdin(limit: int) -> asyncio.StreamReader:
    """Messages from the parent, `limit` bytes each at most."""
    reader = asyncio.StreamReader(limit=limit)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def next_message(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message from the parent; None where it hung up."""
    data = await reader.readline()
    if not data.endswith(b"\n"):
        return None
    message: dict[str, Any] = orjson.loads(data)
    return message


def resident_bytes(pid: int | str = "self") -> int:
    """Memory of a process that is in RAM, in bytes; our own peak where the kernel does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if pid == "self" else 0
