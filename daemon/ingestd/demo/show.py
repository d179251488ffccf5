"""Runs the demo and tells it on the terminal: what arrives, how far it is, and what came of it."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import uvloop
from rich.console import Console
from rich.live import Live

from ingestd import logging
from ingestd.access.roles import Actor
from ingestd.app.app import App, Options
from ingestd.app.control import Control
from ingestd.app.settings import Settings, default_state_dir, load
from ingestd.cli.console import Shell
from ingestd.demo import inbox, picture
from ingestd.demo.picture import State
from ingestd.errors import Refused
from ingestd.events import Bus, Event, JobRetrying, LoadFinished, Notice
from ingestd.imports.store import reads as import_reads
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.store import reads as job_reads
from ingestd.logging import LogListener, word
from ingestd.postgres.pool import OUTAGE
from ingestd.rollups import reads as rollup_reads
from ingestd.schedule.store import reads as schedule_reads

LOOK_EVERY_S = 0.2
PATIENCE_S = 300.0
FAILED = 1


def run(shell: Shell, *, leave: bool) -> int:
    """Run the demo.

    Args:
        leave: stop when its work is done.

    Returns:
        The exit code: 0, or 1 if something of the demo's work failed.
    """
    settings = prepare(shell)
    log = (settings.daemon.state_dir / "demo.log").open("a", encoding="utf-8")
    logging.configure("debug" if shell.verbose else "info", log)
    console = Console(highlight=False, soft_wrap=False)
    try:
        return uvloop.run(Demo(settings, console, leave=leave).run())
    finally:
        log.close()


def prepare(shell: Shell) -> Settings:
    """Write the demo's configuration into its state folder and read it, with the user's own on top.

    Raises:
        Refused: the state folder cannot be used.
    """
    folder = Path(shell.environ.get("INGESTD_DAEMON__STATE_DIR") or default_state_dir().with_name("ingestd-demo")).absolute()
    file = folder / "demo.toml"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        (folder / "inbox").mkdir(exist_ok=True)
        file.write_text((resources.files("ingestd.demo") / "demo.toml").read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise Refused(f"cannot use {folder}: {error.strerror}", hint="set INGESTD_DAEMON__STATE_DIR to a folder of yours") from None
    return load([file, *shell.files], shell.environ)


@dataclass
class Demo:
    """One showing of the demo."""

    settings: Settings
    console: Console
    leave: bool
    control: Control = field(default_factory=Control)
    bus: Bus = field(default_factory=Bus)
    url: str = ""
    run_id: int = 0
    flaky_id: int = 0
    since_load: int = 0
    began: float = field(default_factory=time.monotonic)

    async def run(self) -> int:
        """Run the daemon and the show side by side."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.control.stop)
        self.bus.subscribe(LogListener())
        self.bus.subscribe(self._tell)
        ready: asyncio.Future[App] = loop.create_future()
        options = Options(folder=self.settings.daemon.state_dir, report=self._report, on_ready=ready.set_result)
        daemon = asyncio.create_task(self._daemon(options), name="daemon")
        show = asyncio.create_task(self._show(ready), name="show")
        done, _ = await asyncio.wait({daemon, show}, return_when=asyncio.FIRST_COMPLETED)
        if daemon in done and show not in done:
            show.cancel()
            await asyncio.gather(show, return_exceptions=True)
            daemon.result()
            return 0
        code = show.result()
        if self.leave or code:
            self.control.stop()
        await daemon
        return code

    async def _daemon(self, options: Options) -> None:
        await App(self._on_a_free_port(), self.control, self.bus, options).run()

    def _on_a_free_port(self) -> Settings:
        """The same settings, with any free port if the usual one is taken."""
        admin = self.settings.admin
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((admin.host, admin.port))
            except OSError:
                return self.settings.model_copy(update={"admin": admin.model_copy(update={"port": 0})})
        return self.settings

    async def _show(self, ready: asyncio.Future[App]) -> int:
        self._report("starting Postgres and the daemon")
        app = await ready
        self.url = app.rooms.admin_url if app.rooms and app.rooms.admin_url else ""
        self.console.print(f"[bold]ingestd[/] is up: [link={self.url}]{self.url}[/]  (state in {self.settings.daemon.state_dir})")
        await self._begin(app)
        state = await self._watch(app)
        self.console.print()
        self.console.print(picture.summary(state, time.monotonic() - self.began))
        problems = state.problems()
        for problem in problems:
            self.console.print(f"[red]{problem}[/]")
        if not self.leave:
            self.console.print(f"\nThe page is live at [bold link={self.url}]{self.url}[/]. Ctrl-C drains and stops.")
            if not problems:
                await self.control.drain.wait()
        return FAILED if problems else 0

    async def _begin(self, app: App) -> None:
        """Give the daemon its work: files in the inbox, a run of the workflow, a job that fails twice."""
        async with app.db.services() as conn:
            newest = await import_reads.list_loads(conn, limit=1)
        self.since_load = newest[0]["id"] if newest else 0
        await asyncio.to_thread(inbox.fill, self.settings.daemon.state_dir / "inbox")
        assert app.rooms is not None
        async with app.db.services() as conn:
            self.run_id = await app.start_workflow(conn, Actor("demo", "admin", "cli"), "flights")
            (self.flaky_id,) = await enqueue(conn, [NewJob("flaky_courier", {"parcel": "ORD-2013"}, triggered_by="cli")])

    async def _watch(self, app: App) -> State:
        deadline = time.monotonic() + PATIENCE_S
        with Live(console=self.console, refresh_per_second=8, transient=True, auto_refresh=self.console.is_terminal) as live:
            while True:
                try:
                    state = await self._look(app)
                except OUTAGE:
                    # Postgres is away for a moment; the daemon brings it back
                    await asyncio.sleep(LOOK_EVERY_S)
                    continue
                if self.console.is_terminal:
                    live.update(picture.progress(state))
                if state.settled() or time.monotonic() > deadline:
                    return state
                await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self, app: App) -> State:
        async with app.db.services() as conn:
            loads = [load for load in await import_reads.list_loads(conn, limit=50) if load["id"] > self.since_load]
            (run,) = await job_reads.workflow_runs(conn, run=self.run_id)
            flaky = await job_reads.show_job(conn, self.flaky_id)
            rollups = await rollup_reads.list_rollups(conn)
            schedules = await schedule_reads.list_schedules(conn)
        assert flaky is not None
        return State(list(reversed(loads)), run, flaky, rollups, schedules, self.url)

    def _report(self, words: str) -> None:
        self.console.print(f"[dim]… {words}[/]", highlight=False)

    def _tell(self, event: Event) -> None:
        if isinstance(event, LoadFinished | JobRetrying | Notice):
            worded = word(event)
            if worded:
                colour = {"warning": "yellow", "error": "red"}.get(worded[0], "")
                self.console.print(f"  {worded[1]}", style=colour, markup=False, soft_wrap=True)
