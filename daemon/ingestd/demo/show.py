"""Runs the demo and tells it on the terminal: what arrives, how far it is, and what came of it."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from ingestd import logging
from ingestd.access.roles import Actor
from ingestd.app.app import App, Options
from ingestd.app.control import Control
from ingestd.app.settings import Settings
from ingestd.cli.run_daemon import serve
from ingestd.cli.shell import Shell, heed_ctrl_c, printable
from ingestd.demo import inbox, picture, site
from ingestd.demo.picture import State
from ingestd.demo.store import count_rows
from ingestd.events import Bus, Event, JobRetrying, LoadFinished, Notice
from ingestd.imports.store import reads as import_reads
from ingestd.jobs.enqueue import enqueue
from ingestd.jobs.model import NewJob
from ingestd.jobs.store import reads as job_reads
from ingestd.logging import LogListener, word
from ingestd.postgres.outage import OUTAGE
from ingestd.rollups import reads as rollup_reads
from ingestd.schedule.store import reads as schedule_reads

LOOK_EVERY_S = 0.2
PATIENCE_S = 300.0
FAILED = 1
_NOTHING = re.compile(r", 0 [a-z]+")


def run(shell: Shell, *, leave: bool) -> int:
    """Run the demo.

    Args:
        leave: stop when its work is done.

    Returns:
        The exit code: 0, or 1 if something of the demo's work failed.
    """
    folder = site.open_folder(shell.environ)
    with site.alone(folder), site.open_log(folder) as log:
        settings = site.configure(folder, shell)
        logging.configure("debug" if shell.verbose else "info", log)
        heed_ctrl_c()
        return uvloop.run(Demo(settings, folder, Console(highlight=False), leave=leave).run())


@dataclass
class Demo:
    """One showing of the demo."""

    settings: Settings
    folder: Path
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
        """Run the daemon and the show side by side; whichever ends first ends the other."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop)
        self.bus.subscribe(LogListener())
        self.bus.subscribe(self._tell)
        ready: asyncio.Future[App] = loop.create_future()
        options = Options(folders=[self.folder], report=self._report, on_ready=ready.set_result)
        daemon = asyncio.create_task(self._daemon(options, ready), name="daemon")
        show = asyncio.create_task(self._show(ready), name="show")
        await asyncio.wait({daemon, show}, return_when=asyncio.FIRST_COMPLETED)
        if not daemon.done() and (self.leave or show.exception() or show.result()):
            self.control.stop()
        try:
            await daemon
        finally:
            show.cancel()
            await asyncio.gather(show, return_exceptions=True)
        return 0 if show.cancelled() else show.result()

    def _stop(self) -> None:
        if not self.control.drain.is_set():
            self._report("stopping: what runs may finish; Ctrl-C again does not wait")
        self.control.stop()

    async def _daemon(self, options: Options, ready: asyncio.Future[App]) -> None:
        started = asyncio.Event()
        ready.add_done_callback(lambda _: started.set())
        await serve(App(self.settings, self.control, self.bus, options), self.control, started)

    async def _show(self, ready: asyncio.Future[App]) -> int:
        self._report("starting Postgres and the daemon")
        app = await ready
        self.url = app.rooms.admin_url if app.rooms and app.rooms.admin_url else ""
        self._say(Text.assemble("ingestd is up: ", (self.url, "bold")))
        self._report(f"its files are in {self.folder}")
        state = await self._unless_stopped(self._work(app))
        if state is None:
            self._report("stopped before everything was done; `ingestd demo` goes on from here")
            return 0
        self._say(Text())
        self._say(picture.summary(state, time.monotonic() - self.began))
        problems = state.problems()
        for problem in problems:
            self._say(Text(problem, style="red"))
        if problems:
            self._say(Text(f"more in {self.folder / 'demo.log'}", style="red"))
            return FAILED
        if not self.leave:
            self._invite()
            await self.control.drain.wait()
        return 0

    async def _unless_stopped(self, work: Coroutine[Any, Any, State]) -> State | None:
        """The work's state, or None if somebody stopped the demo: then the daemon goes away under it."""
        task = asyncio.create_task(work, name="work of the demo")
        stopped = asyncio.create_task(self.control.drain.wait(), name="stopped")
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self.control.drain.is_set():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None
        return task.result()

    async def _work(self, app: App) -> State:
        await self._begin(app)
        return await self._watch(app)

    async def _begin(self, app: App) -> None:
        """Give the daemon its work: files in the inbox, a run of the workflow, a job that fails twice."""
        async with app.db.services() as conn:
            newest = await import_reads.list_loads(conn, limit=1)
        self.since_load = newest[0]["id"] if newest else 0
        await asyncio.to_thread(inbox.fill, self.folder / "inbox")
        async with app.db.services() as conn:
            self.run_id = await app.start_workflow(conn, Actor("demo", "admin", "cli"), "flights")
            (self.flaky_id,) = await enqueue(conn, [NewJob("flaky_courier", {"parcel": "ORD-2013"}, triggered_by="cli")])

    async def _watch(self, app: App) -> State:
        deadline = time.monotonic() + PATIENCE_S
        with Live(console=self.console, refresh_per_second=8, transient=True, auto_refresh=self.console.is_terminal) as live:
            while True:
                # Postgres may be away for a moment; the daemon brings it back
                with suppress(*OUTAGE):
                    state = await self._look(app)
                    if self.console.is_terminal:
                        live.update(picture.progress(state, self.console.width))
                    if state.settled() or time.monotonic() > deadline:
                        async with app.db.services() as conn:
                            return replace(state, rows=await count_rows(conn, [one.table for one in self.settings.imports.values()]))
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

    def _invite(self) -> None:
        self._say(Text())
        self._say(Text.assemble("The page is live at ", (self.url, "bold"), ". Ctrl-C drains and stops."))
        self._report(f"to look around from another terminal: export INGESTD_CONFIG={self.folder / 'demo.toml'}")
        self._report("then: ingestd jobs list, ingestd psql -c 'select * from rollups.weather_daily'")

    def _say(self, what: RenderableType) -> None:
        if self.console.is_terminal:
            self.console.print(what)
            return
        with self.console.capture() as captured:
            self.console.print(what)
        for line in captured.get().splitlines():
            self.console.file.write(line.rstrip() + "\n")
        self.console.file.flush()

    def _report(self, words: str) -> None:
        self.console.print(Text(f"… {words}", style="dim"), soft_wrap=True)

    def _tell(self, event: Event) -> None:
        worded = word(event) if isinstance(event, LoadFinished | JobRetrying | Notice) else None
        if worded and worded[0] != "debug":
            colour = {"warning": "yellow", "error": "red"}.get(worded[0], "")
            self.console.print(Text(f"  {printable(_NOTHING.sub('', worded[1]))}", style=colour), soft_wrap=True)
