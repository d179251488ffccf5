"""A service manager that only listens: a notify socket, and what has arrived there in order."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class ServiceManager:
    """Everything a daemon has told its manager.

    Args:
        address: for NOTIFY_SOCKET.
        messages: (monotonic seconds of arrival, assignments), in order.
    """

    address: str
    messages: list[tuple[float, dict[str, str]]] = field(default_factory=list)

    def environment(self, watchdog_s: float = 0.0) -> dict[str, str]:
        """What a daemon under this manager finds in its environment."""
        watched = {"WATCHDOG_USEC": str(int(watchdog_s * 1e6))} if watchdog_s else {}
        return {"NOTIFY_SOCKET": self.address, **watched}

    def told(self, key: str) -> list[str]:
        """The values of one assignment, in order."""
        return [message[key] for _, message in list(self.messages) if key in message]

    def steps(self) -> list[str]:
        """The life of the daemon: READY, RELOADING and STOPPING in order."""
        return [key for _, message in list(self.messages) for key in ("READY", "RELOADING", "STOPPING") if message.get(key) == "1"]

    def fed_since(self, moment_s: float) -> int:
        """How often the watchdog was fed after a moment of the monotonic clock."""
        return sum("WATCHDOG" in message and at > moment_s for at, message in list(self.messages))

    @property
    def status(self) -> str:
        """The last line for people."""
        return (self.told("STATUS") or [""])[-1]


@contextmanager
def service_manager(*, abstract: bool = False) -> Iterator[ServiceManager]:
    """A manager for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="ingestd-notify-") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        path = str(Path(folder) / "notify")
        listening.bind(f"\0{path}" if abstract else path)
        if not abstract:
            # The daemon may run as another user.
            Path(folder).chmod(0o711)
            Path(path).chmod(0o666)
        manager = ServiceManager(f"@{path}" if abstract else path)
        listening.settimeout(0.1)
        over = threading.Event()
        listener = threading.Thread(target=_listen, args=(listening, manager, over), name="service manager")
        listener.start()
        try:
            yield manager
        finally:
            over.set()
            listener.join()


def _listen(listening: socket.socket, manager: ServiceManager, over: threading.Event) -> None:
    while not over.is_set():
        try:
            message = listening.recv(65536).decode()
        except TimeoutError:
            continue
        manager.messages.append((time.monotonic(), dict(line.split("=", 1) for line in message.splitlines())))
