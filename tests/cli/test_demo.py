"""`demo`: the words on the terminal, its folder, and that it keeps to itself."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from ingestd.cli.shell import Shell
from ingestd.demo import picture, site
from ingestd.demo.picture import State
from ingestd.errors import AlreadyRunning, Refused
from tests.cli.kit import Cli, fetchval
from tests.support import PATIENCE_S

# takes the terminal for itself, as a shell does for what it starts
FOREGROUND = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execv(sys.argv[1], sys.argv[1:])
"""
FILES = ("weather.csv", "airlines.csv", "airports.csv", "flights_2013_01.csv")


def state(**changes: Any) -> State:
    """A showing that went well."""
    load = {"import_name": "weather", "status": "succeeded", "state": "succeeded", "progress": None, "reason": None, "duration_ms": 400}
    load |= {"read": 27004, "inserted": 27004, "updated": 0, "unchanged": 0, "rejected": 0, "superseded": 0, "table": "public.weather"}
    load |= changes.pop("load", {})
    step = {"state": "succeeded", "after": ["airlines", "airports"], "reason": None}
    run = {"workflow": "flights", "state": "succeeded", "steps": [{**step, "step": name} for name in ("airlines", "airports", "flights")]}
    flaky = {
        "kind": "flaky_courier",
        "state": "succeeded",
        "attempt": 3,
        "attempts": [{"outcome": "retry"}] * 2 + [{"outcome": "succeeded"}],
    }
    schedules = [{"name": "cleanup", "next_due_at": datetime.now(UTC)}]
    rows = {"public.weather": 26_115}
    return State([{**load, "file": name} for name in FILES], run, flaky, [], schedules, "http://127.0.0.1:8420", rows, **changes)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "load",
    [{}, {"status": "pending", "state": "running"}, {"status": "skipped", "read": 0, "inserted": 0, "reason": "already loaded by load 11"}],
)
def test_what_is_drawn_fits_the_terminal(width: int, load: dict[str, Any]) -> None:
    console = Console(width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(picture.progress(state(load=load), width))
        console.print(picture.summary(state(load=load), 3.2))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    assert [len([line for line in lines if name in line]) for name in FILES] == [2] * 4, "a row was broken into two lines"


def test_a_second_run_says_clearly_that_nothing_was_loaded_again() -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(
            picture.summary(state(load={"status": "skipped", "read": 0, "inserted": 0, "reason": "already loaded by load 1"}), 3.2)
        )
    text = captured.get()
    assert "Nothing was loaded again: an earlier run had the same content" in text
    assert "4 files skipped in 3.2 s, loaded before; the tables hold 26,115 rows." in text
    assert text.count("26,115") == 5


def test_what_went_wrong_is_a_problem_of_the_demo() -> None:
    assert state().problems() == []
    assert state(load={"status": "failed", "reason": "no"}).problems() == [f"load of {name} failed: no" for name in FILES]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "demo"


def shell(**environ: str) -> Shell:
    return Shell(environ=environ)


def test_the_demo_keeps_away_from_what_the_user_has_configured(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[database]\nurl = "postgresql://production/db"\n')
    environ = {"INGESTD_DAEMON__STATE_DIR": str(folder), "INGESTD_CONFIG": str(own)}
    opened = site.open_folder(environ)
    assert opened == folder
    settings = site.configure(opened, shell(**environ))
    assert settings.database.url.get_secret_value() == ""
    assert settings.daemon.state_dir == folder
    asked = Shell(config_files=[str(own)], environ=environ)
    assert site.configure(opened, asked).database.url.get_secret_value() == "postgresql://production/db"


def test_the_usual_port_gives_way_and_one_that_was_asked_for_does_not(folder: Path) -> None:
    environ = {"INGESTD_DAEMON__STATE_DIR": str(folder)}
    site.open_folder(environ)
    with socket.socket() as other:
        with suppress(OSError):
            other.bind(("127.0.0.1", 8420))
            other.listen()
        assert site.configure(folder, shell(**environ)).admin.port == 0
        assert site.configure(folder, shell(**environ, INGESTD_ADMIN__PORT="8420")).admin.port == 8420


def test_one_demo_a_folder(folder: Path) -> None:
    site.open_folder({"INGESTD_DAEMON__STATE_DIR": str(folder)})
    (folder / "admin.port").write_text("4711\n")
    with site.alone(folder), pytest.raises(AlreadyRunning, match=r"running already at http://127\.0\.0\.1:4711"), site.alone(folder):
        pass
    with site.alone(folder):
        pass


@pytest.mark.parametrize("name", ["a file/x", "nul\0"])
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(Refused, match="cannot use the folder"):
        site.open_folder({"INGESTD_DAEMON__STATE_DIR": str(tmp_path / name)})


def test_the_folder_is_closed_to_others_and_a_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    opened = site.open_folder({"INGESTD_DAEMON__STATE_DIR": "~/here"})
    assert opened == tmp_path / "here"
    assert opened.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)


class Terminal:
    """A command in a terminal of its own, 80 columns wide."""

    def __init__(self, cli: Cli, *words: str) -> None:
        self.master, slave = pty.openpty()
        subprocess.run(["stty", "cols", "80", "rows", "40"], stdin=slave, check=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", FOREGROUND, *cli.command(*words)],
            cwd=cli.folder,
            env={**cli.environment(), "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read_until(self, words: str) -> None:
        """Read until something has been said."""
        while words not in self.text:
            try:
                got = os.read(self.master, 65536)
            except OSError:
                got = b""
            assert got, f"it ended without saying {words!r}:\n{self.text}"
            self.text += got.decode(errors="replace")

    def press_ctrl_c(self) -> None:
        """As a user does: everything in the foreground gets the signal."""
        os.write(self.master, b"\x03")

    def end(self) -> int:
        """Read to the end."""
        with suppress(OSError):
            while got := os.read(self.master, 65536):
                self.text += got.decode(errors="replace")
        os.close(self.master)
        return self.process.wait(timeout=PATIENCE_S)


@pytest.fixture
def demo(cli: Cli) -> Cli:
    """The demo on the test's database."""
    cli.environ |= {"INGESTD_DAEMON__STATE_DIR": str(cli.folder / "demo")}
    return cli


def test_ctrl_c_in_the_middle_drains_and_the_next_run_finishes_and_then_skips(demo: Cli, dsn: str) -> None:
    terminal = Terminal(demo, "demo")
    terminal.read_until("is up")
    # while its loader children are still starting: once they are up they ignore the signal anyway
    while not any("ingestd.imports.child" in child.cmdline() for child in psutil.Process(terminal.process.pid).children()):
        assert terminal.process.poll() is None
    terminal.press_ctrl_c()
    assert terminal.end() == 0
    assert "stopping: what runs may finish" in terminal.text
    assert "Traceback" not in terminal.text
    assert "loader process" not in terminal.text, "Ctrl-C reached a loader child"

    finished = demo.process("demo", "--exit")
    assert (finished.code, finished.err) == (0, "")
    assert fetchval(dsn, "select count(*) from weather") == 26_115
    assert fetchval(dsn, "select count(*) from flights") == 27_004
    assert "the tables hold 54,593 rows" in finished.out
    assert all(len(line) <= 80 for line in finished.out.splitlines() if str(demo.folder) not in line)
    assert "\x1b" not in finished.out

    skipped = demo.process("demo", "--exit")
    assert skipped.code == 0
    assert "4 files skipped" in skipped.out
    assert fetchval(dsn, "select count(*) from ingestd.load where status not in ('succeeded', 'skipped')") == 0


def test_a_demo_that_cannot_start_says_why_in_one_line(bare: Cli) -> None:
    bare.environ |= {"INGESTD_DAEMON__STATE_DIR": str(bare.folder / "demo")}
    ran = bare.process("demo", "--exit")
    assert ran.code == 69
    assert "Postgres is not reachable" in ran.problem


def test_a_demo_is_stopped_by_sigterm_before_it_is_up(bare: Cli) -> None:
    bare.environ |= {"INGESTD_DAEMON__STATE_DIR": str(bare.folder / "demo"), "INGESTD_DAEMON__START_TIMEOUT": "10m"}
    process = bare.start("demo")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    process.communicate()
