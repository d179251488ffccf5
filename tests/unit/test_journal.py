"""journald's protocol, read by a stand-in that takes datagrams and files apart as journald does."""

from __future__ import annotations

import array
import contextlib
import fcntl
import logging as stdlib
import mmap
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd import journal, logging
from ingestd.events import JobFinished
from ingestd.journal import Journal, encode, field_name, is_stream
from ingestd.lines import JournalOutput

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass
class Journald:
    """A socket that entries are sent to."""

    path: Path
    socket: socket.socket
    files: int = 0

    def entry(self) -> dict[str, bytes]:
        """The next entry."""
        data, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if not ancillary:
            return parse(data)
        assert data == b""
        self.files += 1
        descriptors = array.array("i")
        descriptors.frombytes(ancillary[0][2])
        (descriptor,) = descriptors
        try:
            # What journald asks of a file before it maps it.
            assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS == SEALS
            with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
                return parse(bytes(mapped))
        finally:
            os.close(descriptor)

    def is_empty(self) -> bool:
        try:
            self.socket.recv(1)
        except BlockingIOError:
            return True
        return False


def parse(data: bytes) -> dict[str, bytes]:
    """Take an entry apart by the rules of the protocol; anything that breaks them fails."""
    found: dict[str, bytes] = {}
    while data:
        head, _, rest = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if equals:
            data = rest
        else:
            (length,) = struct.unpack("<Q", rest[:8])
            value, end, data = rest[8 : 8 + length], rest[8 + length : 9 + length], rest[9 + length :]
            assert len(value) == length
            assert end == b"\n"
        text = name.decode("ascii")
        assert text[0].isascii()
        assert text[0].isupper(), text
        assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
        assert len(text) <= 64
        found[text] = value
    return found


@pytest.fixture
def journald() -> Iterator[Journald]:
    """A stand-in that is open; its path is short, for a socket's may have 107 bytes."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = Path(folder) / "socket"
        sock.bind(str(path))
        sock.setblocking(False)
        yield Journald(path, sock)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Give back the logging that the test run had."""
    root = stdlib.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers, root.level = handlers, level


@contextlib.contextmanager
def speaking(journald: Journald, level: str = "debug") -> Iterator[JournalOutput]:
    """Log to the stand-in."""
    output = JournalOutput(Journal(journald.path))
    logging.put_out(output, level)
    yield output
    output.close()


@pytest.fixture
def sender(journald: Journald) -> Iterator[Journal]:
    """What sends to the stand-in."""
    with contextlib.closing(Journal(journald.path)) as made:
        yield made


TEXTS = st.text(st.characters(exclude_categories=()), max_size=300)


@given(st.dictionaries(st.text(min_size=1, max_size=100), TEXTS, max_size=8))
def test_whatever_is_said_comes_apart_as_it_was_put_together(fields: dict[str, str]) -> None:
    named = {field_name(name): value for name, value in fields.items()}
    assert parse(encode(named)) == {name: value.encode("utf-8", "backslashreplace") for name, value in named.items()}


@pytest.mark.parametrize("value", ["", "a=b", "\n", "two\nlines", "=\n=", "nul \0 in it", "\ud800 half a pair", "ж" * 1000, "a\n" * 5000])
def test_awkward_values_arrive_as_they_are(journald: Journald, sender: Journal, value: str) -> None:
    assert sender.send({"MESSAGE": value, "INGESTD_NEXT": "1"})
    assert journald.entry() == {"MESSAGE": value.encode("utf-8", "backslashreplace"), "INGESTD_NEXT": b"1"}


def test_what_no_datagram_carries_goes_as_a_sealed_file(journald: Journald, sender: Journal) -> None:
    sender._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    value = "0123456789\n" * 20_000
    assert sender.send({"MESSAGE": value})
    assert journald.entry() == {"MESSAGE": value.encode()}
    assert journald.files == 1
    assert sender.send({"MESSAGE": "small again"})
    assert journald.entry() == {"MESSAGE": b"small again"}
    assert journald.files == 1


def test_a_megabyte_is_cut_with_a_mark_and_between_characters(journald: Journald, sender: Journal) -> None:
    assert sender.send({"MESSAGE": "ж" * (1 << 20), "INGESTD_MORE": "y"})
    entry = journald.entry()
    assert len(entry["MESSAGE"]) <= journal.LONGEST_VALUE
    assert entry["MESSAGE"].decode().endswith("ж [cut]")
    assert entry["INGESTD_MORE"] == b"y"


def test_an_entry_has_a_largest_size_however_many_fields_it_is_given() -> None:
    entry = encode({f"INGESTD_{number}": "x" * (100 << 10) for number in range(100)})
    assert len(entry) < journal.LONGEST_ENTRY + (4 << 10)
    parse(entry)


def test_a_reader_that_does_not_read_costs_lines_and_no_time(journald: Journald) -> None:
    """The kernel's queue is the only buffer: once it is full each line is dropped at once, counted, and told of with the next one."""
    with speaking(journald) as output:
        log = stdlib.getLogger("somebody")
        while not output.lost:
            log.info("filling up")
            assert output.written["info"] < 10_000
        before, slowest = output.lost, 0.0
        for _ in range(200):
            began = time.perf_counter()
            log.info("x" * 1000)
            slowest = max(slowest, time.perf_counter() - began)
        assert output.lost == before + 200
        # A wait would take a second at the least, whatever else this machine does meanwhile.
        assert slowest < 0.5
        for _ in range(output.written["info"]):
            journald.entry()
        log.info("back again")
        assert journald.entry()["INGESTD_LOST"] == str(before + 200).encode()
        log.info("and going on")
        assert "INGESTD_LOST" not in journald.entry()


def test_a_journald_that_restarts_is_found_again(journald: Journald, sender: Journal) -> None:
    assert sender.send({"MESSAGE": "one"})
    journald.path.unlink()
    assert not sender.send({"MESSAGE": "nobody there"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as successor:
        successor.bind(str(journald.path))
        successor.setblocking(False)
        assert sender.send({"MESSAGE": "two"})
        assert Journald(journald.path, successor).entry() == {"MESSAGE": b"two"}


def test_an_event_has_its_fields(journald: Journald) -> None:
    with speaking(journald):
        logging.LogListener()(JobFinished(7, "sync", "failed", 12, error="no such host", correlation_id="c-1"))
    entry = journald.entry()
    assert entry["MESSAGE"] == b"job 7 sync failed: no such host"
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"], entry["INGESTD_EVENT"]) == (b"3", b"ingestd", b"JobFinished")
    assert (entry["INGESTD_JOB_ID"], entry["INGESTD_KIND"], entry["INGESTD_CORRELATION_ID"]) == (b"7", b"sync", b"c-1")


@pytest.mark.parametrize(("level", "priority"), [("debug", b"7"), ("info", b"6"), ("warning", b"4"), ("error", b"3"), ("critical", b"2")])
def test_levels_are_syslogs(journald: Journald, level: str, priority: bytes) -> None:
    with speaking(journald):
        getattr(stdlib.getLogger("somebody"), level)("hm")
    assert journald.entry()["PRIORITY"] == priority


def test_a_traceback_is_part_of_the_message(journald: Journald) -> None:
    with speaking(journald):
        try:
            raise OSError("no such model")
        except OSError:
            stdlib.getLogger("somebody").exception("could not begin", extra={"model": {"name": "m"}})
    entry = journald.entry()
    assert entry["MESSAGE"].startswith(b"could not begin\nTraceback (most recent call last):")
    assert entry["MESSAGE"].endswith(b"OSError: no such model")
    assert entry["INGESTD_MODEL"] == b'{"name": "m"}'


def test_only_the_stream_that_systemd_made_is_the_journal(tmp_path: Path) -> None:
    """Every child inherits the variable; what its output is connected to is what counts."""
    with (tmp_path / "a").open("wb") as ours, (tmp_path / "b").open("wb") as other:
        stat = os.fstat(ours.fileno())
        environ = {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}
        assert is_stream(ours.fileno(), environ)
        assert not is_stream(other.fileno(), environ)
        assert not is_stream(ours.fileno(), {})
        assert not is_stream(ours.fileno(), {"JOURNAL_STREAM": "rubbish"})
    assert not is_stream(10_000, environ)


def test_the_journal_is_chosen_where_it_listens_and_lines_elsewhere(
    journald: Journald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "stderr").open("w") as stderr:
        stat = os.fstat(stderr.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        monkeypatch.setattr(journal, "SOCKET", journald.path)
        logging.configure("info", stderr)
        stdlib.getLogger("somebody").info("to the journal")
        assert journald.entry()["MESSAGE"] == b"to the journal"
        monkeypatch.setattr(journal, "SOCKET", tmp_path / "nowhere")
        logging.configure("info", stderr)
        stdlib.getLogger("somebody").info("to the file")
        logging.configure("info", sys.stderr)
    assert journald.is_empty()
    assert "to the file" in (tmp_path / "stderr").read_text()
