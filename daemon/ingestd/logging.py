"""How the daemon speaks: set up once, and every event worded here.

A line goes to journald by its own protocol where systemd connected us to it, is a JSON document elsewhere, and a sentence on a
terminal: of a service on stdout, which has no other use for it; of a command on stderr, for stdout is its answer. Code emits events;
only this module turns them into sentences.
"""

from __future__ import annotations

import logging as stdlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, TextIO

import structlog

from ingestd import events, journal
from ingestd.events import Event
from ingestd.lines import JournalOutput, JsonOutput, Output, TerminalOutput
from ingestd.redaction import Redactor

LEVELS = {"debug": stdlib.DEBUG, "info": stdlib.INFO, "warning": stdlib.WARNING, "error": stdlib.ERROR}


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging to write to one place.

    Args:
        level: debug, info, warning or error.
        stream: stderr if not given; a terminal gets colours, journald's stream its own protocol, anything else JSON lines.
    """
    put_out(_output(stream or sys.stderr, patient=True), level)


def configure_service(level: str = "info") -> None:
    """As `configure`, for a process whose log must not hold it up: on stdout, unless systemd connected stderr alone to the journal."""
    journalled = next((stream for stream in (sys.stderr, sys.stdout) if _is_journal(stream)), None)
    put_out(_output(journalled or sys.stdout, patient=False), level)


def flush(within_s: float) -> None:
    """Have everything written that was said, for so many seconds at most: call it before the process is ended by force."""
    output = _current()
    if output is not None:
        output.flush_within(within_s)


def put_out(output: Output, level: str = "info") -> None:
    """Have everything that is said go to one output, in place of the one before; secrets that one knew stay known."""
    root = stdlib.getLogger()
    before = _current()
    if before is not None:
        output.redactor = before.redactor
        before.close()
    root.handlers = [output]
    set_level(level)
    # These tell at info what our own events tell better.
    for noisy in ("apscheduler", "asyncio", "aiohttp.access"):
        stdlib.getLogger(noisy).setLevel(stdlib.WARNING)
    # Garbage sent to the admin port is the sender's mistake, not worth a traceback; what handlers raise is told by our own events.
    stdlib.getLogger("aiohttp.server").setLevel(stdlib.CRITICAL)
    structlog.configure(
        processors=[structlog.stdlib.PositionalArgumentsFormatter(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def set_level(level: str) -> None:
    """Change the level while running."""
    stdlib.getLogger().setLevel(LEVELS[level])


def present_level() -> str:
    """The level that is set."""
    number = stdlib.getLogger().level
    return next((name for name, least in LEVELS.items() if least >= number), "error")


def conceal(secrets: Iterable[str]) -> None:
    """Keep these out of every line from now on, and out of what `without_secrets` gives."""
    output = _current()
    if output is not None:
        output.redactor.know(secrets)


def without_secrets(text: str) -> str:
    """The text without what is known to be a secret, or has the form of one."""
    output = _current()
    return (output.redactor if output is not None else Redactor()).text(text)


def tally() -> tuple[Mapping[str, int], int]:
    """Lines written by level, and how many were lost."""
    output = _current()
    return ({}, 0) if output is None else output.tally()


def _current() -> Output | None:
    return next((handler for handler in stdlib.getLogger().handlers if isinstance(handler, Output)), None)


def _output(target: TextIO, *, patient: bool) -> Output:
    if _is_journal(target):
        return JournalOutput(journal.Journal(journal.SOCKET))
    # What is no file of the system's, as in tests, keeps nobody waiting.
    patient = patient or _descriptor(target) is None
    return TerminalOutput(target, patient=patient) if target.isatty() else JsonOutput(target, patient=patient)


def _is_journal(target: TextIO) -> bool:
    descriptor = _descriptor(target)
    # Both must be there: a container may inherit the variable without the socket.
    return descriptor is not None and journal.is_stream(descriptor, os.environ) and journal.SOCKET.is_socket()


def _descriptor(target: TextIO) -> int | None:
    try:
        return target.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def word(event: Event) -> tuple[str, str] | None:
    """The level and sentence of an event; None for one that is not logged."""
    worder = _WORDS.get(type(event))
    return worder(event) if worder else None


class LogListener:
    """Writes every event that has words."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("ingestd")

    def wants(self, kind: type[Event]) -> bool:
        """Whether events of this type would be written at the present level."""
        return kind is not events.JobStarted or stdlib.getLogger().isEnabledFor(stdlib.DEBUG)

    def __call__(self, event: Event) -> None:
        worded = word(event)
        if worded is None:
            return
        level, sentence = worded
        if not stdlib.getLogger().isEnabledFor(LEVELS[level]):
            return
        fields = {key: value for key, value in asdict(event).items() if value is not None and key not in ("result", "message", "level")}
        details = fields.pop("details", None) or {}
        self._log.log(LEVELS[level], sentence, event_type=type(event).__name__, **fields, **details)


def _load(e: Any) -> tuple[str, str]:
    counts = (
        f"read {e.read}: {e.inserted} inserted, {e.updated} updated, {e.unchanged} unchanged, {e.rejected} rejected,"
        f" {e.superseded} superseded"
    )
    tail = f" ({e.reason})" if e.reason else ""
    match e.status:
        case "succeeded":
            return "info", f"loaded {e.file} into {e.import_name}: {counts}"
        case "partial":
            return "warning", f"loaded {e.file} into {e.import_name} with rejects: {counts}"
        case "skipped":
            return "info", f"skipped {e.file} of {e.import_name}{tail}"
    return "error", f"loading {e.file} into {e.import_name} failed{tail}"


def _finished(e: Any) -> tuple[str, str]:
    if e.state == "failed":
        return "error", f"job {e.job_id} {e.kind} failed{f': {e.error}' if e.error else ''}"
    return "debug" if e.state == "succeeded" else "info", f"job {e.job_id} {e.kind} {e.state} in {e.duration_ms} ms"


def _downtime(e: Any) -> tuple[str, str]:
    cost = f"{e.missed} slots missed and {e.late} run late, of {e.schedules} schedules" if e.schedules else "no slot was due"
    gap = f"{e.began_at:%Y-%m-%d %H:%M:%S} to {e.ended_at:%Y-%m-%d %H:%M:%S %Z}"
    return "error" if e.missed else "warning", f"nothing fired slots from {gap}: {cost}"


def _configuration(e: Any) -> tuple[str, str]:
    if e.pending:
        return "warning", f"configuration applied; these need a restart: {', '.join(e.pending)}"
    return "info", f"configuration applied{': ' + ', '.join(e.changed) if e.changed else ''}"


def _rebuilt(e: Any) -> tuple[str, str]:
    if e.error:
        return "warning", f"index {e.index} is bloated and could not be rebuilt, in an hour again: {e.error}"
    return "info", f"rebuilt index {e.index}: {e.bytes_before >> 20} MiB before, {e.bytes_after >> 20} MiB now, in {e.duration_ms} ms"


_WORDS: dict[type[Event], Callable[[Any], tuple[str, str]]] = {
    events.NodeStarted: lambda e: ("info", f"ready{', admin page at ' + e.admin_url if e.admin_url else ''}"),
    events.NodeDraining: lambda e: ("info", f"draining: {e.running} jobs have up to {e.timeout_s:.0f} s to finish"),
    events.NodeStopped: lambda e: ("info", f"stopped{f', {e.handed_back} jobs handed back' if e.handed_back else ''}"),
    events.PostgresStarted: lambda e: ("warning" if e.recovered else "info", f"embedded Postgres {e.version}"),
    events.DatabaseLost: lambda e: ("error", f"Postgres is gone: {e.error}"),
    events.DatabaseBack: lambda e: ("info", f"Postgres is back after {e.seconds:.1f} s"),
    events.LoopBlocked: lambda e: ("warning", f"the main loop has not turned for {e.seconds:.1f} s; its stack is with this line"),
    events.LoopFreed: lambda e: ("warning", f"the main loop turns again, after {e.seconds:.1f} s"),
    events.LoopFailed: lambda e: ("debug" if e.repeated else "error", f"loop {e.loop} failed, again in {e.retry_in_s:.1f} s: {e.error}"),
    events.JobStarted: lambda e: ("debug", f"job {e.job_id} {e.kind} started, attempt {e.attempt}"),
    events.JobsSucceeded: lambda e: ("debug", f"{len(e.durations_ms)} {e.kind} succeeded"),
    events.JobFinished: _finished,
    events.JobRetrying: lambda e: ("warning", f"job {e.job_id} {e.kind} will be retried in {e.delay_s:.0f} s: {e.reason}"),
    events.StaleAck: lambda e: ("warning", f"job {e.job_id} {e.kind} belonged to somebody else by then; nothing was written"),
    events.JobsRescued: lambda e: ("warning", f"rescued {e.count} jobs of node {e.dead_node}: {e.reason}"),
    events.JobSlow: lambda e: ("warning", f"job {e.job_id} {e.kind} has run for {e.seconds:.0f} s, usual is {e.usual_s:.1f} s at most"),
    events.JobStuck: lambda e: ("error", f"job {e.job_id} {e.kind} is stuck: {e.reason}"),
    events.FileArrived: lambda e: ("info", f"{e.name} arrived for {e.import_name}, {e.size} bytes"),
    events.LoadFinished: _load,
    events.RollupRefreshed: lambda e: ("debug", f"rollup {e.rollup} refreshed: {e.groups} groups in {e.duration_ms} ms"),
    events.SlotFired: lambda e: ("debug", f"schedule {e.schedule} fired its slot of {e.due_at:%Y-%m-%d %H:%M:%S %Z}"),
    events.SlotMissed: lambda e: ("warning", f"schedule {e.schedule} missed its slot of {e.due_at:%Y-%m-%d %H:%M:%S %Z}: {e.reason}"),
    events.SlotOverdue: lambda e: ("warning", f"schedule {e.schedule}, slot of {e.due_at:%Y-%m-%d %H:%M:%S %Z}: {e.reason}"),
    events.SlotSlow: lambda e: ("warning", f"job {e.job_id} of schedule {e.schedule} takes longer than its target of {e.target}"),
    events.SlotsStopped: lambda e: ("error", f"no node has fired slots since {e.since:%Y-%m-%d %H:%M:%S %Z}; {e.overdue} schedules due"),
    events.Downtime: _downtime,
    events.ConfigurationApplied: _configuration,
    events.ConfigurationRefused: lambda e: ("error", "configuration refused, the old one stays: " + "; ".join(e.problems)),
    events.HorizonHeld: lambda e: ("warning", f"{e.who} has kept dead rows from being removed for {e.seconds:.0f} s; {e.hint}"),
    events.IndexRebuilt: _rebuilt,
    events.AccessDenied: lambda e: ("warning", f"{e.actor} at {e.address} was refused {e.action}: {e.reason}"),
    events.Notice: lambda e: (e.level, e.message),
}
