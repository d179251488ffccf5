"""What a line carries and what none may carry, whatever is said and by whom."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
import logging as stdlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from pydantic import BaseModel, SecretStr

from ingestd import logging
from ingestd.cause import JOB, NODE, REQUEST, correlation, correlation_from
from ingestd.events import Notice, SlotFired
from ingestd.lines import LONGEST_TEXT, JsonOutput, RelayOutput, TerminalOutput, relayed
from ingestd.redaction import MASK, Redactor, secrets_in

pytestmark = pytest.mark.usefixtures("own_logging")


@dataclass
class Subject:
    id: int = 7
    kind: str = "sync"
    attempt: int = 2
    correlation_id: str | None = "c-1"


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("says nothing")


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(text)


@pytest.fixture
def stream() -> io.StringIO:
    """Where lines go."""
    made = io.StringIO()
    logging.put_out(JsonOutput(made), "debug")
    return made


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_job_and_its_node_are_in_every_line_of_its_task_its_tasks_and_its_threads(stream: io.StringIO) -> None:
    async def aside() -> None:
        structlog.get_logger("shop").info("in a task")

    async def job() -> None:
        NODE.set("host:1")
        JOB.set(Subject())
        stdlib.getLogger("library").info("here")
        await asyncio.create_task(aside())
        await asyncio.to_thread(stdlib.getLogger("library").info, "in a thread")

    asyncio.run(job())
    stdlib.getLogger("library").info("outside")
    said = {line["event"]: line for line in lines(stream)}
    for event in ("here", "in a task", "in a thread"):
        fields = {name: said[event][name] for name in ("node", "job_id", "kind", "attempt", "correlation_id")}
        assert fields == {"node": "host:1", "job_id": 7, "kind": "sync", "attempt": 2, "correlation_id": "c-1"}
    assert said["outside"].keys() == {"timestamp", "level", "event", "logger"}


def test_a_line_about_another_job_is_not_joined_to_the_one_that_runs(stream: io.StringIO) -> None:
    def tell() -> None:
        JOB.set(Subject())
        structlog.get_logger().info("about another", job_id=8)
        structlog.get_logger().info("about this one", job_id=7)

    contextvars.copy_context().run(tell)
    other, this = lines(stream)
    assert "kind" not in other
    assert "correlation_id" not in other
    assert this["kind"] == "sync"


def test_a_request_joins_its_lines_and_a_job_comes_before_it() -> None:
    def inside() -> list[str | None]:
        REQUEST.set("r-1")
        first = correlation()
        JOB.set(Subject())
        return [first, correlation()]

    assert contextvars.copy_context().run(inside) == ["r-1", "c-1"]
    assert correlation() is None


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 65, "a\nb", "a;b", "é"])
def test_a_correlation_id_that_could_hide_what_it_is_is_replaced(given: str | None) -> None:
    assert correlation_from("order-7.x_Y") == "order-7.x_Y"
    made = correlation_from(given)
    assert made != given
    assert correlation_from(made) == made


def test_fields_cannot_pass_for_what_the_line_itself_says(stream: io.StringIO) -> None:
    stdlib.getLogger("library").info("really", extra={"level": "critical", "timestamp": "never", "event_type": "x"})
    structlog.get_logger("shop").info("really", level="critical", logger="root")
    first, second = lines(stream)
    assert (first["level"], first["level_"], first["timestamp_"]) == ("info", "critical", "never")
    assert (second["level"], second["logger"], second["logger_"]) == ("info", "shop", "root")


def test_nothing_that_is_said_ends_whoever_says_it() -> None:
    stream = io.StringIO()
    logging.put_out(JsonOutput(stream))
    log = stdlib.getLogger("library")
    loop: list[Any] = []
    loop.append(loop)
    log.info("too few %s %s", 1)  # noqa: PLE1206 - what a library may do
    log.info(Mute())
    log.info("odd", extra={"mute": Mute(), "loop": loop, "bytes": b"\xff", "set": {1}, "keys": {1: 2, None: 3}, "half": "\ud800"})
    structlog.get_logger().info("wide", values=list(range(100_000)), deep={"a": {"b": [[[[[[[[1]]]]]]]]}}, text="x" * (1 << 20))
    few, mute, odd, wide = lines(stream)
    assert few["event"].startswith("too few %s %s")
    assert "cannot say what it is" in mute["event"]
    assert odd["half"] == "\ud800"
    stream.getvalue().encode()
    assert len(json.dumps(wide)) < LONGEST_TEXT + 50_000


def test_a_line_that_cannot_be_written_is_lost_and_counted() -> None:
    output = JsonOutput(Closed())
    logging.put_out(output)
    stdlib.getLogger("library").warning("hm")
    assert logging.tally() == ({}, 1)


@pytest.mark.parametrize("output", [JsonOutput, TerminalOutput])
def test_no_secret_is_written_by_whatever_way_it_is_said(output: Any) -> None:
    class Inner(BaseModel):
        token: SecretStr = SecretStr("s3cret-token")

    class Outer(BaseModel):
        inner: Inner = Inner()
        many: dict[str, Inner] = {"a": Inner(token=SecretStr("postgresql://user:p%40ss-word@host/db"))}
        odd: SecretStr = SecretStr('q"/+\\w\nx')

    stream = io.StringIO()
    logging.put_out(output(stream))
    logging.conceal(secrets_in(Outer()))
    log = stdlib.getLogger("library")
    try:
        raise ValueError("s3cret-token")
    except ValueError:
        log.exception("failed with %s and %s", "s3cret-token", "p@ss-word")
    log.warning("%s %r %s", quote('q"/+\\w\nx', safe=""), 'q"/+\\w\nx', json.dumps('q"/+\\w\nx'))
    log.warning("postgresql://other:hunter2@host, token=hunter2, igd_admin_hunter2hunter2_0, Authorization: Bearer hunter2hunter2")
    log.warning("{'password': 'hunter2', 'n': 1} %s", json.dumps({"token": 'a"hunter2'}))
    log.warning("%r said %s", json.dumps({"api_key": "hunter2"}), json.dumps(json.dumps({"secret": "hunter2"})))
    log.warning("Authorization: Basic hunter2, X-Api-Key: hunter2, ?sig=hunter2&X-Amz-Signature=hunter2; Cookie: a=hunter2; b=hunter2")
    log.warning("%ss3cret-token", "x" * (LONGEST_TEXT - 3))
    structlog.get_logger().warning("x", password="hunter2", nested=[{"api_key": "hunter2"}], ok="p%40ss-word", object=SecretStr("hunter2"))
    logging.LogListener()(Notice("y", details={"client_secret": "hunter2", "s3cret-token": 1}))
    text = stream.getvalue()
    assert text.count(MASK) > 8
    for secret in ("s3cret-token", "s3c", "p@ss-word", "p%40ss-word", "hunter2", "%2B%5Cw", "+\\\\w"):
        assert secret not in text


def test_secrets_stay_known_when_the_output_changes(stream: io.StringIO) -> None:
    logging.conceal(["known-secret"])
    other = io.StringIO()
    logging.put_out(JsonOutput(other))
    stdlib.getLogger("library").warning("known-secret")
    assert lines(other)[0]["event"] == MASK
    assert logging.without_secrets("a known-secret") == f"a {MASK}"


def test_a_word_that_is_too_short_to_be_a_secret_blots_out_nothing() -> None:
    redactor = Redactor()
    redactor.know(["", "app", "postgresql://postgres:postgres@host/db"])
    assert redactor.text("the app asks postgres") == "the app asks postgres"
    assert redactor.text("postgresql://postgres:postgres@host/db") == MASK


QUOTES = (
    '"token": "' * 6_000,
    "'" * 64_000,
    '"a' * 32_000 + '":',
    "x-a-" * 16_000 + ": ",
    '"token": "' + "\\a" * 30_000,
    '\\"token\\": ' * 5_000,
)


def test_a_long_text_without_secrets_costs_no_more_than_its_length() -> None:
    """Patterns that look again from each place would take minutes here."""
    redactor = Redactor()
    for text in (
        "a." * 32_000 + "://",
        "a=" * 32_000,
        "password" * 8_000 + "=",
        "bearer " * 9_000,
        "igd_a" * 12_000,
        "://" * 20_000,
        *QUOTES,
    ):
        redactor.text(text)


def test_what_another_process_said_is_said_here_with_its_logger_and_level(stream: io.StringIO) -> None:
    sent: list[list[Any]] = []
    root = stdlib.getLogger()
    ours = root.handlers
    logging.put_out(RelayOutput(sent.append), "debug")
    stdlib.getLogger("library").warning("from %s", "afar", extra={"size": 3})
    root.handlers = ours
    relayed(json.loads(json.dumps(sent[0])))
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"], line["size"]) == ("from afar", "library", "warning", 3)


def test_an_event_keeps_its_own_fields(stream: io.StringIO) -> None:
    from datetime import UTC, datetime

    logging.LogListener()(SlotFired("nightly", datetime(2026, 1, 1, tzinfo=UTC), 9))
    (line,) = lines(stream)
    assert (line["event_type"], line["schedule"], line["job_id"], line["level"]) == ("SlotFired", "nightly", 9, "debug")
