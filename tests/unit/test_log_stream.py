"""A log that nobody reads holds nobody up: lines wait for their reader in bounded memory, then they are lost and counted."""

from __future__ import annotations

import json
import logging as stdlib
import os
import pty
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from ingestd import logging
from ingestd.lines import JsonOutput, StreamOutput, TerminalOutput
from ingestd.log_stream import LogStream

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """What is read, and what is written to."""
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as stream:
        yield reads, stream


def read_all(descriptor: int) -> bytes:
    found = b""
    while piece := os.read(descriptor, 1 << 20):
        found += piece
    os.close(descriptor)
    return found


def test_a_pipe_that_nobody_reads_takes_so_much_and_then_loses_lines_which_the_next_reader_is_told(pipe: tuple[int, TextIO]) -> None:
    reads, stream = pipe
    stream_of_ours = LogStream(stream.fileno(), most_waiting=1 << 20)
    output = JsonOutput(stream, patient=False)
    output._aside = stream_of_ours
    logging.put_out(output)
    log = stdlib.getLogger("library")
    for number in range(2000):
        log.warning("%d %s", number, "x" * 1000)
    _, lost = logging.tally()
    assert 500 < lost < 1100
    logging.flush(0.01)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(read_all(reads)))
    reader.start()
    logging.flush(20)
    log.warning("heard again")
    logging.flush(20)
    stream.close()
    reader.join(20)
    lines = [json.loads(line) for line in found[0].splitlines()]
    assert [int(line["event"].split()[0]) for line in lines[:-1]] == list(range(2000 - lost)), "whole lines, in order"
    assert (lines[-1]["event"], lines[-1]["lost"]) == ("heard again", lost)


def test_a_reader_who_has_gone_costs_lines_and_nothing_else(pipe: tuple[int, TextIO]) -> None:
    reads, stream = pipe
    os.close(reads)
    output = JsonOutput(stream, patient=False)
    logging.put_out(output)
    for _ in range(3):
        stdlib.getLogger("library").warning("nobody")
        logging.flush(20)
    assert logging.tally()[1] == 3


def test_a_file_has_every_line_at_once(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        logging.put_out(JsonOutput(stream, patient=False))
        stdlib.getLogger("library").warning("now")
        assert json.loads((tmp_path / "log").read_text())["event"] == "now"


@pytest.mark.parametrize("made", [JsonOutput, TerminalOutput])
def test_what_is_said_cannot_move_the_cursor_or_pass_for_another_line(made: type[StreamOutput], tmp_path: Path) -> None:
    hostile = "a\x1b[2J\x9b31m\r\u202e\u2028b\nforged"
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        logging.put_out(made(stream))
        structlog.get_logger().warning(hostile, **{hostile: hostile})
    text = (tmp_path / "log").read_text(encoding="utf-8", errors="strict")
    for strange in ("\x1b[2J", "\x9b", "\u202e", "\u2028", "\nforged"):
        assert strange not in text
    assert "\r" not in text
    assert "forged" in text
    if made is JsonOutput:
        assert json.loads(text)["event"] == hostile


def test_a_service_logs_to_stdout_and_a_command_to_stderr(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    terminal, inside = pty.openpty()
    with (tmp_path / "out").open("w") as out, os.fdopen(inside, "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        logging.configure_service()
        stdlib.getLogger("library").warning("for a machine")
        assert json.loads((tmp_path / "out").read_text())["event"] == "for a machine"
        logging.configure()
        stdlib.getLogger("library").warning("for a person")
        assert b"for a person" in os.read(terminal, 4096)
    os.close(terminal)
