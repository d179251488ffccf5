"""sd_notify: what a service manager is told, by one datagram each; without NOTIFY_SOCKET nothing is.

Nothing here may harm the daemon, and nothing may be lost: a manager that is busy (it reads nothing while it reloads its own units)
hears everything in order from a thread that waits for it; one that is gone hears nothing.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, MutableMapping

# How long the thread waits before it looks whether the manager is still there.
SEND_TIMEOUT_S = 1.0
# Far more than a life has steps: what is left out beyond is the oldest, and the newest status says it all.
MOST_WAITING = 200
_FED = b"WATCHDOG=1"
# A third: one lost ping and one late one are not yet the end.
PINGS_PER_INTERVAL = 3
STATUS_CHARS = 500
# The manager sets these for us alone: a child that spoke in our name would confuse it.
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Speaks to a service manager; may be used from any thread.

    Args:
        address: of its socket, a path or `@name` for one in the abstract namespace; empty: there is no manager.
        watchdog_s: seconds of silence after which it ends this process; 0: it does not watch.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = address
        self._fed_at = 0.0
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._lock = threading.Lock()
        self._sending = False
        self.feed_every_s = watchdog_s / PINGS_PER_INTERVAL

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Notifier:
        """The manager that the environment names."""
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(address if address.startswith(("/", "@")) else "", _watchdog_s(environ))

    @property
    def enabled(self) -> bool:
        """Whether there is a manager."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """The node serves; also ends `reloading`."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """What the node is doing, for people."""
        self._send(_status(text))

    def reloading(self, status: str) -> None:
        """The configuration is being read again, until `ready`."""
        # The manager compares the moment with that of its signal: READY of an earlier reload must not end this one.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", _status(status))

    def stopping(self, status: str, within_s: float) -> None:
        """The node ends, and takes so many seconds at most."""
        self._send("STOPPING=1", _status(status), _extension(within_s))

    def extend(self, seconds: float, status: str | None = None) -> None:
        """Starting or stopping takes so much longer, in seconds from now."""
        self._send(_extension(seconds), *([_status(status)] if status is not None else []))

    def feed(self) -> None:
        """Keep the manager's watchdog quiet; call it as often as you like while all is well."""
        if not self.feed_every_s:
            return
        now = time.monotonic()
        if now - self._fed_at >= self.feed_every_s or not self._fed_at:
            self._fed_at = now
            self._send(_FED.decode())

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        message = "\n".join(assignments).encode()
        with self._lock:
            if not self._waiting and _sent(self._address, message, 0.0):
                return
            self._wait_with(message)
            if not self._sending:
                self._sending = True
                threading.Thread(target=self._send_what_waits, name="notify", daemon=True).start()

    def _wait_with(self, message: bytes) -> None:
        if message == _FED and _FED in self._waiting:
            return  # one keeps the manager as quiet as two
        # Of lines for people the newest says it all; the first may be on its way just now.
        if len(self._waiting) > 1 and all(line.startswith(b"STATUS=") for line in (message, self._waiting[-1])):
            self._waiting.pop()
        self._waiting.append(message)

    def _send_what_waits(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._sending = False
                    return
                message = self._waiting[0]
            if _sent(self._address, message, SEND_TIMEOUT_S):
                with self._lock:
                    # Unless it was pushed out meanwhile.
                    if self._waiting and self._waiting[0] is message:
                        self._waiting.popleft()


def _sent(address: str, message: bytes, within_s: float) -> bool:
    """Whether nothing is left to do about a message: it is on its way, or nobody is there to take it."""
    try:
        # One socket a message: none to renew where the manager has been replaced under us.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(within_s)
            sender.sendto(message, f"\0{address[1:]}" if address.startswith("@") else address)
    except (BlockingIOError, TimeoutError):
        return False
    except OSError:
        pass  # there is nobody left to tell
    return True


def take_from(environ: MutableMapping[str, str]) -> Notifier:
    """The manager that the environment names; the variables are removed, for children are not to speak to it."""
    found = Notifier.from_environment(environ)
    for name in VARIABLES:
        environ.pop(name, None)
    return found


def _watchdog_s(environ: Mapping[str, str]) -> float:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(0.0, int(environ.get("WATCHDOG_USEC", "0")) / 1e6)
    except ValueError:
        return 0.0


def _status(text: str) -> str:
    # A line break would begin another assignment.
    return f"STATUS={' '.join(text.split())[:STATUS_CHARS]}"


def _extension(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"
