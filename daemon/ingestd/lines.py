"""Log lines: what every one carries, what none may carry, and the forms in which they are put out.

What is said while a job runs, by whomever, carries the job's id, kind and correlation id (`cause`).
"""

from __future__ import annotations

import contextlib
import json
import logging as stdlib
import re
import sys
import traceback
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog

from ingestd.cause import JOB, NODE, REQUEST
from ingestd.journal import Journal, field_name
from ingestd.log_stream import LogStream
from ingestd.redaction import CUT, MASK, Redactor, is_secret_name

# A line is no place for more: it is cut, whatever a handler says.
MOST_DEPTH = 8
MOST_VALUES = 2000
LONGEST_TEXT = 64 << 10
# Beyond what is kept: a secret that begins within must be seen whole to be known.
_SIGHT = LONGEST_TEXT + (4 << 10)
# What moves the cursor, hides or turns round what stands beside it: a terminal obeys it, whoever wrote it.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_ENDED_BY_S = 2.0
_OWN = frozenset({"timestamp", "level", "event", "logger", "lost"})
_STANDARD = frozenset(vars(stdlib.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_TRACES = ("exception", "traceback", "stack")
_PRIORITIES = ((stdlib.CRITICAL, "2"), (stdlib.ERROR, "3"), (stdlib.WARNING, "4"), (stdlib.INFO, "6"))


class Output(stdlib.Handler):
    """Where lines go. What keeps it from writing loses the line, is counted, and harms nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.redactor = Redactor()
        self.written: Counter[str] = Counter()
        self.lost = 0
        self._untold = 0

    def emit(self, record: stdlib.LogRecord) -> None:
        """Write one line."""
        try:
            written = self.write(record.levelno, self._line(record))
        except Exception:  # noqa: BLE001 - a log that cannot be written must not end what wrote it
            written = False
        if written:
            self.written[record.levelname.lower()] += 1
            self._untold = 0
        else:
            self.lost += 1
            self._untold += 1

    def tally(self) -> tuple[Mapping[str, int], int]:
        """Lines written by level, and how many were lost."""
        return self.written, self.lost

    def flush_within(self, seconds: float) -> None:
        """Have everything written that waits to be, for so long at most."""

    @abstractmethod
    def write(self, level: int, line: dict[str, Any]) -> bool:
        """Put one line out; returns False where it was lost.

        Args:
            level: as the standard library numbers it.
            line: `timestamp level event logger node …`, of plain values only.
        """

    def _line(self, record: stdlib.LogRecord) -> dict[str, Any]:
        said = _said(record)
        fields = _Cleaner(self.redactor).fields(
            {**_bound(said), **{f"{name}_" if name in _OWN else name: value for name, value in said.items() if name != "event"}}
        )
        head = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "event": self.redactor.text(_text(said["event"])[:_SIGHT])[:LONGEST_TEXT],
            "logger": record.name,
        }
        return {**head, **({"lost": self._untold} if self._untold else {}), **fields}


class StreamOutput(Output):
    """Lines of text on a stream.

    Args:
        stream: where they go.
        patient: the stream may keep whoever writes to it waiting, as it does any command; without it lines wait for their reader in
            memory and are lost when there are too many.
    """

    def __init__(self, stream: TextIO, *, patient: bool = True) -> None:
        super().__init__()
        self.stream = stream
        self._aside = None if patient else LogStream(stream.fileno())

    def write(self, level: int, line: dict[str, Any]) -> bool:
        """Write one line to the stream."""
        text = self.render(line) + "\n"
        if self._aside is None:
            self.stream.write(text)
            self.stream.flush()
            return True
        self._count_lost()
        return self._aside.write(text.encode("utf-8", "backslashreplace"))

    def tally(self) -> tuple[Mapping[str, int], int]:
        """Lines written by level, and how many were lost; one that was let in and then could not be written is both."""
        with self.lock or contextlib.nullcontext():
            self._count_lost()
        return super().tally()

    def _count_lost(self) -> None:
        gone = self._aside.take_lost() if self._aside is not None else 0
        self.lost += gone
        self._untold += gone

    @abstractmethod
    def render(self, line: dict[str, Any]) -> str:
        """The line as it is written."""

    def flush_within(self, seconds: float) -> None:
        """Have everything written that waits for its reader, for so long at most."""
        if self._aside is not None:
            self._aside.flush(seconds)

    def close(self) -> None:
        """Have what was said at the end written, if somebody reads it."""
        self.flush_within(_ENDED_BY_S)
        super().close()


class JsonOutput(StreamOutput):
    """A JSON document a line."""

    def render(self, line: dict[str, Any]) -> str:
        """JSON, and nothing in it that a terminal would obey: people look at such files."""
        # Half a surrogate pair, as in a file's name, becomes JSON's escape for it.
        text = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
        return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class TerminalOutput(StreamOutput):
    """A coloured sentence a line, for people who watch."""

    def __init__(self, stream: TextIO, *, patient: bool = True) -> None:
        super().__init__(stream, patient=patient)
        # Not its own tracebacks: those show the values of variables.
        self._render = structlog.dev.ConsoleRenderer(pad_event_to=44, exception_formatter=structlog.dev.plain_traceback)

    def render(self, line: dict[str, Any]) -> str:
        """A sentence; of what is said only our own colours reach the terminal."""
        local = datetime.fromisoformat(line["timestamp"]).astimezone()
        shown = {
            _shown(name).replace("\n", "\\n"): _shown(value, indent=name in ("event", *_TRACES))
            for name, value in line.items()
            if name not in ("timestamp", "node")
        }
        return str(self._render(None, "", {"timestamp": f"{local:%H:%M:%S}", **shown}))


class JournalOutput(Output):
    """Entries of journald with a field for each field."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal

    def write(self, level: int, line: dict[str, Any]) -> bool:
        """Send one entry."""
        # journalctl shows the message only: what an error left behind belongs to it.
        traces = [str(line[name]).rstrip() for name in _TRACES if line.get(name)]
        entry = {
            "MESSAGE": "\n".join([line["event"], *traces]),
            "PRIORITY": next((priority for least, priority in _PRIORITIES if level >= least), "7"),
            "SYSLOG_IDENTIFIER": "ingestd",
        }
        for name, value in line.items():
            if name not in ("event", "level", "timestamp", *_TRACES):
                named = "INGESTD_EVENT" if name == "event_type" else field_name(name)
                entry[named] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return self.journal.send(entry)

    def close(self) -> None:
        """Let go of the socket."""
        self.journal.close()
        super().close()


class RelayOutput(Output):
    """Hands lines to the process that started this one, which knows where they go.

    Args:
        send: called with `[level, event, logger, fields]`.
    """

    def __init__(self, send: Callable[[list[Any]], None]) -> None:
        super().__init__()
        self._send = send

    def write(self, level: int, line: dict[str, Any]) -> bool:
        """Hand over one line."""
        fields = {name: value for name, value in line.items() if name not in _OWN}
        self._send([level, line["event"], line["logger"], fields])
        return True


def relayed(line: list[Any]) -> None:
    """Say here what `RelayOutput` sent from another process."""
    level, event, logger, fields = line
    stdlib.getLogger(logger).log(level, {**fields, "event": event})


def _said(record: stdlib.LogRecord) -> dict[str, Any]:
    """What whoever logged has said, as fields; `event` is the sentence."""
    message: Any = record.msg
    # structlog hands over its fields as the message.
    if isinstance(message, dict) and "event" in message:
        said = dict(message)
        trouble = said.pop("exc_info", None)
    else:
        said = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        try:
            said["event"] = record.getMessage()
        except Exception as error:  # noqa: BLE001 - a library's bad format string; what it said is better than nothing
            said["event"] = f"{_text(message)} ({type(error).__name__}: {error})"
        trouble = record.exc_info
        if record.stack_info:
            said["stack"] = record.stack_info
    if trouble and "exception" not in said and (words := _traceback(trouble)):
        said["exception"] = words
    return said


def _bound(said: Mapping[str, Any]) -> dict[str, Any]:
    """What the context adds: the node, and the job where the line is not about another one."""
    bound = dict(structlog.contextvars.get_contextvars())
    if (node := NODE.get()) is not None:
        bound["node"] = node
    job = JOB.get()
    if job is None:
        if (request := REQUEST.get()) is not None:
            bound["correlation_id"] = request
    elif said.get("job_id", job.id) == job.id:
        bound |= {"job_id": job.id, "kind": job.kind, "attempt": job.attempt, "correlation_id": job.correlation_id}
    return bound


def _traceback(trouble: Any) -> str:
    error = trouble if isinstance(trouble, BaseException) else trouble[1] if isinstance(trouble, tuple) else sys.exc_info()[1]
    return "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""


class _Cleaner:
    """Turns what somebody wants to log into plain values without secrets, and no more of them than a line may have."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._left = MOST_VALUES

    def fields(self, fields: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
        """Named values; those whose name says so are secrets."""
        clean: dict[str, Any] = {}
        for key, value in fields.items():
            if self._left <= 0:
                clean[CUT] = CUT
                break
            name = _text(key)[:LONGEST_TEXT]
            clean[self._redactor.text(name)] = MASK if value and is_secret_name(name) else self.value(value, depth + 1)
        return clean

    def value(self, value: Any, depth: int) -> Any:
        """One value."""
        self._left -= 1
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self._redactor.text(value[:_SIGHT])[:LONGEST_TEXT]
        if self._left <= 0 or depth > MOST_DEPTH:
            return CUT
        if isinstance(value, Mapping):
            return self.fields(value, depth)
        if isinstance(value, list | tuple | set | frozenset):
            clean = []
            for item in value:
                clean.append(self.value(item, depth + 1))
                if self._left <= 0:
                    break
            return clean
        return self._redactor.text(_text(value)[:_SIGHT])[:LONGEST_TEXT]


def _shown(value: Any, *, indent: bool = False) -> Any:
    """A value as a terminal may have it; of anything but text the renderer shows what Python would write."""
    if not isinstance(value, str):
        return value
    plain = _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], value)
    # A line that begins at the margin would pass for one of ours.
    return plain.replace("\n", "\n    ") if indent else plain


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - its own __str__ may do anything
        return f"a {type(value).__name__} that cannot say what it is: {type(error).__name__}"
