"""Calling the command line, in this process where it is quick and as a real process where that matters."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ingestd.cli.entry import run
from ingestd.postgres.session import connect
from tests.support import PATIENCE_S

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 2 * PATIENCE_S
JOBS = """
from ingestd import Context, job

@job("greet")
async def greet(ctx: Context, name: str = "you") -> dict[str, str]:
    return {"greeted": name}

@job("anything")
async def anything(ctx: Context, **args) -> None:
    pass

@job("fail", max_attempts=1)
async def fail(ctx: Context) -> None:
    raise RuntimeError("it went wrong\\x1b[31m")
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its answer, which must be one JSON document on one line."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def problem(self) -> str:
        """Its complaint, which must be one line and perhaps a hint; never a traceback."""
        lines = self.err.splitlines()
        assert 1 <= len(lines) <= 2, self.err
        assert lines[0].startswith("ingestd: ")
        assert all(line.startswith("  ") for line in lines[1:])
        return self.err


@dataclass
class Cli:
    """The command line with a configuration.

    Args:
        folder: with `config.toml`, and a module `myjobs` beside it.
        environ: what the commands see besides the usual.
    """

    folder: Path
    environ: dict[str, str]
    capsys: pytest.CaptureFixture[str]

    def configure(self, text: str) -> None:
        """Write the configuration file."""
        (self.folder / "config.toml").write_text(text, encoding="utf-8")
        (self.folder / "myjobs.py").write_text(JOBS, encoding="utf-8")
        self.environ["INGESTD_CONFIG"] = str(self.folder / "config.toml")

    def __call__(self, *words: str) -> Ran:
        """Run a command in this process."""
        self.capsys.readouterr()
        code = run(words, self.environ)
        captured = self.capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    def process(self, *words: str, environ: Mapping[str, str] | None = None, **options: Any) -> Ran:
        """Run a command as a process of its own."""
        done = subprocess.run(
            self.command(*words),
            check=False,
            cwd=self.folder,
            env=self.environment(environ),
            text=True,
            timeout=LIMIT_S,
            **{"capture_output": True, "stdin": subprocess.DEVNULL, **options},
        )
        return Ran(done.returncode, done.stdout or "", done.stderr or "")

    def start(self, *words: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command that goes on; Ctrl-C reaches it although pytest may be ignoring it."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment(environ),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )

    def command(self, *words: str) -> Sequence[str]:
        return [sys.executable, "-m", "ingestd", *words]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("INGESTD_") and name != "COLUMNS"}
        return {**inherited, "PYTHONPATH": str(REPOSITORY / "daemon"), **self.environ, **(more or {})}


def ask(dsn: str, question: Callable[[asyncpg.Connection], Any]) -> Any:
    """Ask the database something from a test that is not a coroutine."""

    async def asking() -> Any:
        conn = await connect(dsn)
        try:
            return await question(conn)
        finally:
            await conn.close()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(asking())


def fetchval(dsn: str, statement: str, *values: Any) -> Any:
    """One value from the database."""
    return ask(dsn, lambda conn: conn.fetchval(statement, *values))


def until_started(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Read what a daemon says until it says that it is ready; returns that event.

    Raises:
        AssertionError: it ended instead, or was ended because it took too long; with what it has said.
    """
    said: list[str] = []
    assert process.stdout is not None
    too_late = threading.Timer(LIMIT_S, process.kill)
    too_late.start()
    try:
        while line := process.stdout.readline():
            said.append(line)
            if '"NodeStarted"' in line:
                event: dict[str, Any] = json.loads(line)
                return event
    finally:
        too_late.cancel()
    raise AssertionError(f"the daemon did not start: {said}")


def finish(process: subprocess.Popen[str], timeout_s: float = LIMIT_S) -> Ran:
    """Wait for a process that was started."""
    out, err = process.communicate(timeout=timeout_s)
    return Ran(process.returncode, out, err)
