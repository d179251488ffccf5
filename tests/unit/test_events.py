"""Events reach every listener; every event that is logged has its sentence."""

from __future__ import annotations

import dataclasses
import io
import json
import logging as stdlib
from datetime import UTC, datetime
from typing import Any, get_type_hints

import pytest

from ingestd import events, logging
from ingestd.events import Bus, Event, JobFinished, LoadFinished, Notice

KINDS = [found for found in vars(events).values() if isinstance(found, type) and issubclass(found, Event) and found is not Event]
EXAMPLES: dict[Any, Any] = {
    int: 3,
    float: 1.5,
    str: "text",
    bool: True,
    tuple[str, ...]: ("[daemon] queues",),
    tuple[int, ...]: (3, 4),
    datetime: datetime.now(UTC),
}

pytestmark = pytest.mark.usefixtures("own_logging")


def example(kind: type[Event]) -> Event:
    """An event of a kind, with made-up values."""
    hints = get_type_hints(kind)
    return kind(
        **{field.name: EXAMPLES.get(hints[field.name]) for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(event: Event, level: str = "debug", stream: io.StringIO | None = None) -> str:
    """What is written about one event."""
    stream = stream or io.StringIO()
    logging.configure(level, stream)
    logging.LogListener()(event)
    return stream.getvalue()


def test_listeners_hear_in_the_order_they_joined_until_they_leave() -> None:
    bus, heard = Bus(), list[str]()
    leave = bus.subscribe(lambda _: heard.append("first"))
    bus.subscribe(lambda _: heard.append("second"))
    bus.emit(Notice("x"))
    leave()
    bus.emit(Notice("x"))
    assert heard == ["first", "second", "second"]


def test_a_listener_that_raises_harms_neither_the_emitter_nor_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    bus, heard = Bus(), list[Event]()

    def falls_over(_: Event) -> None:
        raise RuntimeError("listener fell over")

    bus.subscribe(falls_over)
    bus.subscribe(heard.append)
    bus.emit(Notice("x"))
    assert heard == [Notice("x")]
    assert "listener fell over" in capsys.readouterr().err


def test_a_listener_may_leave_while_it_is_told() -> None:
    bus, heard = Bus(), list[Event]()
    leave = bus.subscribe(lambda _: leave())
    bus.subscribe(heard.append)
    bus.emit(Notice("x"))
    assert heard == [Notice("x")]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_event_has_its_sentence(kind: type[Event]) -> None:
    worded = logging.word(example(kind))
    assert worded is not None
    level, sentence = worded
    assert level in logging.LEVELS
    assert sentence
    assert "None" not in sentence


def test_a_job_that_failed_without_an_error_of_its_own_is_told_without_one() -> None:
    assert logging.word(JobFinished(7, "load", "failed", 12)) == ("error", "job 7 load failed")


def test_without_a_terminal_a_line_is_one_json_document() -> None:
    line = logged(JobFinished(7, "sync", "failed", 12, error='line one\nline "two"'))
    assert line.count("\n") == 1
    document = json.loads(line)
    assert document["event"] == 'job 7 sync failed: line one\nline "two"'
    assert (document["level"], document["event_type"], document["job_id"]) == ("error", "JobFinished", 7)
    assert datetime.fromisoformat(document["timestamp"]).tzinfo is not None


def test_on_a_terminal_a_line_is_a_sentence() -> None:
    line = logged(Notice("look here"), stream=Terminal())
    assert "look here" in line
    assert not line.startswith("{")


def test_what_is_below_the_level_is_not_written() -> None:
    assert logged(Notice("hm", "info"), "warning") == ""
    assert logged(Notice("hm", "warning"), "warning")


def test_other_libraries_speak_in_the_same_stream_and_form() -> None:
    stream = io.StringIO()
    logging.configure("info", stream)
    stdlib.getLogger("library").warning("watch %s", "out")
    stdlib.getLogger("apscheduler").info("not this")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["watch out"]


@pytest.mark.parametrize(
    ("status", "level", "begins"),
    [("succeeded", "info", "loaded"), ("partial", "warning", "loaded"), ("skipped", "info", "skipped"), ("failed", "error", "loading")],
)
def test_a_load_is_told_as_it_ended(status: str, level: str, begins: str) -> None:
    worded = logging.word(LoadFinished(1, "readings", "r.csv", status, read=3, inserted=2, rejected=1, reason="why"))
    assert worded is not None
    assert worded[0] == level
    assert worded[1].startswith(begins)
    assert ("why" in worded[1]) == (status in ("skipped", "failed"))
