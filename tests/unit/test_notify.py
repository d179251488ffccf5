"""sd_notify: one datagram a message, and nothing of it can harm whoever sends it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ingestd.notify import Notifier, take_from


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def notifier(manager: socket.socket, watchdog_s: float = 0.0) -> Notifier:
    return Notifier(manager.getsockname(), watchdog_s)


def test_a_status_is_one_line_whatever_is_in_it(manager: socket.socket) -> None:
    notifier(manager).status("refused:\nREADY=1\x00\r\n" + "x" * 9000)
    (line,) = manager.recv(65536).decode().splitlines()
    assert line.startswith("STATUS=refused: READY=1")
    assert len(line) < 600


def test_a_reload_says_when_it_began_by_the_clock_that_the_manager_uses(manager: socket.socket) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier(manager).reloading("again")
    first, moment, _ = manager.recv(65536).decode().splitlines()
    assert first == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_however_often_it_is_fed_the_watchdog_hears_of_it_three_times_an_interval(manager: socket.socket) -> None:
    fed = notifier(manager, watchdog_s=60)
    for _ in range(100):
        fed.feed()
    assert manager.recv(65536) == b"WATCHDOG=1"
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(65536)
    assert fed.feed_every_s == 20


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234"])
def test_without_a_socket_of_a_kind_we_know_nobody_is_told(address: str) -> None:
    found = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    assert not found.enabled
    found.ready("up")
    found.feed()


def test_a_manager_that_is_gone_or_does_not_read_harms_nobody(manager: socket.socket, tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody")).ready("up")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                full.sendto(b"x", manager.getsockname())
    busy = notifier(manager, watchdog_s=1e-6)
    busy.ready("up")
    for _ in range(1000):
        busy.feed()
    for number in range(1000):
        busy.status(str(number))
    busy.stopping("over", 1)
    # Whoever tells it has long gone on; a manager that looks again hears all of it, in order.
    found = []
    while not found or not found[-1].startswith("STOPPING"):
        if (message := manager.recv(65536).decode()) != "x":
            found.append(message.split("\n")[0])
    assert found == ["READY=1", "WATCHDOG=1", "STATUS=999", "STOPPING=1"]


@pytest.mark.parametrize(
    ("environ", "every_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 10),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({}, 0),
    ],
)
def test_only_the_process_that_is_watched_feeds(environ: dict[str, str], every_s: float) -> None:
    assert Notifier.from_environment({"NOTIFY_SOCKET": "/run/notify", **environ}).feed_every_s == every_s


def test_what_names_the_manager_is_taken_out_of_the_environment_that_children_inherit() -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    assert take_from(environ).enabled
    assert environ == {"PATH": "/bin"}
