"""What the service manager is told of a node: the order of its life, and a line that says what it does just now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from ingestd import logging
from ingestd.events import (
    Bus,
    ConfigurationApplied,
    ConfigurationRefused,
    DatabaseBack,
    DatabaseLost,
    Event,
    NodeDraining,
    NodeStarted,
    NodeStopped,
)
from ingestd.notify import Notifier

SHOW_EVERY_S = 5.0
# While it starts, the manager waits so much longer each time the start has shown that it goes on.
START_EVERY_S = 5.0
START_STEP_S = 30.0
# What comes after the jobs: hand them back, close everything, stop an embedded Postgres.
CLOSING_S = 60.0


class ServiceStatus:
    """Follows a node's events and tells its service manager.

    Args:
        notifier: the manager; it may be none.
        bus: whose events are followed.
    """

    def __init__(self, notifier: Notifier, bus: Bus) -> None:
        self._notifier = notifier
        self._running: Callable[[], int] = lambda: 0
        self._state = "starting"
        self._troubles: dict[str, str] = {}
        self._pending: tuple[str, ...] = ()
        self._shown = ""
        if notifier.enabled:
            bus.subscribe(self._hear)

    @property
    def needed(self) -> bool:
        """Whether anybody is told."""
        return self._notifier.enabled

    def count(self, running: Callable[[], int]) -> None:
        """Have the jobs that run shown.

        Args:
            running: how many there are now.
        """
        self._running = running

    def starting(self, words: str = "") -> None:
        """The start goes on.

        Args:
            words: what takes time; empty: still the same.
        """
        if self._state == "starting":
            self._notifier.extend(START_STEP_S, f"starting: {words}" if words else None)

    def given_up(self) -> None:
        """Somebody asked to stop before the start was done."""
        self._state = "stopping"
        self._notifier.stopping("stopping before the start was done", CLOSING_S)

    def reloading(self) -> None:
        """The configuration is being read again."""
        self._notifier.reloading("reading the configuration again")

    async def poll(self) -> float:
        """Show what has changed; returns the seconds until the next look."""
        line = self._line()
        if line != self._shown:
            self._shown = line
            self._notifier.status(line)
        return SHOW_EVERY_S

    def _hear(self, event: Event) -> None:
        match event:
            case NodeStarted():
                self._state = f"serving at {event.admin_url}" if event.admin_url else "serving"
                self._ready()
            case NodeDraining():
                self._state = f"draining, jobs have up to {event.timeout_s:.0f} s"
                self._notifier.stopping(self._line(), event.timeout_s + CLOSING_S)
            case NodeStopped():
                self._state = "closing"
                self._notifier.extend(CLOSING_S, f"closing, {event.handed_back} jobs handed back")
            case ConfigurationApplied():
                self._troubles.pop("configuration", None)
                self._pending = event.pending
                self._ready()
            case ConfigurationRefused():
                self._troubles["configuration"] = f"configuration refused, the old one stays: {'; '.join(event.problems)}"
                self._ready()
            case DatabaseLost():
                self._troubles["database"] = f"Postgres is gone since {datetime.now(UTC):%H:%M:%S} UTC"
                self._tell()
            case DatabaseBack():
                self._troubles.pop("database", None)
                self._tell()

    def _ready(self) -> None:
        self._shown = self._line()
        self._notifier.ready(self._shown)

    def _tell(self) -> None:
        self._shown = self._line()
        self._notifier.status(self._shown)

    def _line(self) -> str:
        running = self._running()
        waits = f"; waits for a restart: {', '.join(self._pending)}" if self._pending else ""
        troubles = "".join(f"; {trouble}" for trouble in self._troubles.values())
        # Everybody on the machine may read it.
        return logging.without_secrets(f"{self._state}; {running} job{'' if running == 1 else 's'} running{troubles}{waits}")
