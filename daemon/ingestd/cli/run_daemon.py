"""`run`."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType

import typer

from ingestd.app.app import App, Options
from ingestd.app.control import Control
from ingestd.app.settings import Settings, warnings
from ingestd.app.stacks import Stack, StackDump
from ingestd.cli.shell import Shell, complain
from ingestd.errors import ConfigurationError, UsageError
from ingestd.events import Bus, Notice
from ingestd.logging import LogListener, flush
from ingestd.notify import take_from

FORCED = 75
# A second signal ends the process within five seconds, whatever is in its way.
FORCED_S = 4.0
LEFTOVERS_S = 1.0
LAST_WORDS_S = 0.3
ON_COMMAND_LINE = {"--duties": "INGESTD_DAEMON__DUTIES", "--queues": "INGESTD_DAEMON__QUEUES"}


def add_to(app: typer.Typer) -> None:
    """Enter the command."""

    @app.command()
    def run(
        ctx: typer.Context,
        duties: str | None = typer.Option(
            None, "--duties", metavar="LIST", help="What this node does: work,schedule,serve (default: all)."
        ),
        queues: str | None = typer.Option(None, "--queues", metavar="LIST", help="Queues this node works on (default: all)."),
        once: bool = typer.Option(False, "--once", help="Do what is due now and leave, for hosts whose cron is the daemon."),
    ) -> int:
        """Run the daemon.

        SIGTERM and Ctrl-C let running jobs finish, a second one does not wait; SIGHUP reads the configuration again;
        SIGUSR1 writes to the log what every thread and task is doing. With --once due slots are fired, sources looked at,
        jobs run and rollups refreshed; then it ends. A second one at the same time exits with 75.
        """
        shell: Shell = ctx.obj
        # Until it is up it only builds what stays; thousands of schedules take a third longer with a collector that looks at them.
        gc.disable()
        given = _given({"--duties": duties, "--queues": queues})
        shell.environ = {**shell.environ, **{ON_COMMAND_LINE[option]: words for option, words in given.items()}}
        hangup = Hangup()
        try:
            settings = shell.settings()
        except ConfigurationError as error:
            raise ConfigurationError([_as_options(problem, given) for problem in error.problems]) from None
        if "--queues" in given and "work" not in settings.daemon.duties:
            raise UsageError("--queues says which jobs this node runs, and with these --duties it runs none", hint="add work to --duties")
        for warning in warnings(settings, shell.environ):
            complain(f"warning: {warning}")
        if once:
            settings = _without_serving(settings)
        return shell.run(_run(shell, settings, hangup, once=once), settings.logs.level, service=True)


def _given(options: Mapping[str, str | None]) -> dict[str, str]:
    """The options that were given, each with at least one word."""
    given = {option: words for option, words in options.items() if words is not None}
    for option, words in given.items():
        if not words.replace(",", "").strip():
            raise UsageError(f"{option} names nothing", hint=f"leave {option} out for all of them")
    return given


def _as_options(problem: str, given: Mapping[str, str]) -> str:
    """Blame the option, not the environment that it was put into."""
    for option in given:
        problem = problem.replace(f'{ON_COMMAND_LINE[option]}: "{option[2:]}" in [daemon]:', f"{option}:")
    return problem


def _without_serving(settings: Settings) -> Settings:
    """The page would be gone before anybody has seen it."""
    duties = [duty for duty in settings.daemon.duties if duty != "serve"]
    if not duties:
        raise UsageError(
            "--once works and schedules, and with these duties it does neither", hint="add work or schedule to [daemon] duties"
        )
    return settings.model_copy(update={"daemon": settings.daemon.model_copy(update={"duties": duties})})


async def _run(shell: Shell, settings: Settings, hangup: Hangup, *, once: bool = False) -> int:
    """Run one node under this process's signals.

    Returns:
        The exit code: 0, or 75 if a second signal forced the end.
    """
    bus, control, started = Bus(), Control(), asyncio.Event()
    bus.subscribe(LogListener())
    options = Options(
        # What runs once has read its configuration just now.
        reload=None if once else shell.settings,
        folders=shell.folders,
        report=shell.report,
        on_ready=lambda _: _begin(started),
        notifier=take_from(os.environ),
        once=once,
    )
    loop = asyncio.get_running_loop()
    told = Told(control, loop)
    # Not loop.add_signal_handler: a handler that blocks the loop must not make the daemon deaf.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
        signal.signal(number, told.stop)
    loop.add_signal_handler(signal.SIGHUP, control.reload.set)
    if hangup.came:
        control.reload.set()
    signal.signal(signal.SIGUSR1, StackDump(loop, _tell_stacks))
    _show_stacks_of_crashes()
    await serve(App(settings, control, bus, options), control, started)
    code = FORCED if control.force.is_set() else 0
    # Everything is written and closed: a thread or coroutine of a job that will not end has no say in when the process does.
    leave_within(LEFTOVERS_S, code)
    return code


def _tell_stacks(stacks: list[Stack]) -> None:
    # Warnings: whoever asks for them wants to see them at any level.
    log = LogListener()
    log(Notice(f"asked for by SIGUSR1: the stacks of {sum(stack.count for stack in stacks)} threads and tasks, in {len(stacks)} places"))
    for stack in stacks:
        log(Notice(stack.title, details={"stack": stack.text}))


def _show_stacks_of_crashes() -> None:
    """SIGABRT is how a service manager's watchdog ends us, and C code ends itself: say first what every thread was at."""
    with suppress(OSError, ValueError):
        faulthandler.enable()


def _begin(started: asyncio.Event) -> None:
    started.set()
    # What there is now stays: the collector need not walk over it, not even once, for a tenth of a start's time went into finding
    # a few hundred kilobytes. And jobs make few cycles but many objects: with the interpreter's own thresholds a third of the time
    # of small jobs goes into looking for garbage that is not there.
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 20, 50)


async def serve(app: App, control: Control, started: asyncio.Event) -> None:
    """Run one node; whoever asks it to stop before it is up does not have to wait until it is.

    Args:
        started: set once the node is ready.
    """
    node = asyncio.create_task(app.run(), name="node")
    asked = asyncio.create_task(control.drain.wait(), name="asked to stop")
    try:
        await asyncio.wait({node, asked}, return_when=asyncio.FIRST_COMPLETED)
        too_early = asked.done() and not started.is_set()
        if too_early:
            node.cancel()
        try:
            await node
        except asyncio.CancelledError:
            if not too_early:
                raise
    finally:
        asked.cancel()
        if not node.done():
            node.cancel()
            await asyncio.gather(node, return_exceptions=True)


class Hangup:
    """Remembers a SIGHUP that comes after the configuration has been read and before there is a loop to tell."""

    def __init__(self) -> None:
        self.came = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGHUP, self._come)

    def _come(self, _number: int, _frame: FrameType | None) -> None:
        self.came = True


class Told:
    """Turns the signals that end this process into requests, the second one into an end that nothing can hold up.

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
            leave_within(
                FORCED_S, FORCED, "ended by force: a second signal, and something blocks the way out; its jobs are taken up by others"
            )
        with suppress(RuntimeError):  # the loop is closed already: the process is ending
            self._loop.call_soon_threadsafe(self._control.stop)


def leave_within(seconds: float, code: int, words: str = "") -> None:
    """End the process with this code unless it has ended by itself until then, with a last line in the log if there are words for it."""
    timer = threading.Timer(seconds, _leave, (code, words))
    timer.daemon = True
    timer.start()


def _leave(code: int, words: str) -> None:
    if words:
        LogListener()(Notice(words))
    flush(LAST_WORDS_S)
    os._exit(code)
