"""What composition itself knows: which configuration is in force, and whether a newer one was refused or needs a restart."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg

from ingestd.events import Bus, ConfigurationApplied, ConfigurationRefused, Event
from ingestd.facts import Check, RoomFacts

SHOWN_CHARS = 500


class ConfigurationFacts:
    """Remembers how the last reload ended.

    Args:
        bus: where reloads are told.
    """

    def __init__(self, bus: Bus) -> None:
        self._loaded_at = datetime.now(UTC)
        self._refused_at: datetime | None = None
        self._problems: tuple[str, ...] = ()
        self._pending: tuple[str, ...] = ()
        bus.subscribe(self._hear)

    async def checks(self, _conn: asyncpg.Connection) -> list[Check]:
        """Whether what stands in the files is what is in force."""
        if self._problems:
            return [
                Check(
                    "configuration",
                    "degraded",
                    f"refused: {'; '.join(self._problems)}"[:SHOWN_CHARS],
                    since=self._refused_at,
                    hint="the one before it stays in force: mend the file and send SIGHUP again",
                )
            ]
        value = f"in force since {self._loaded_at:%Y-%m-%d %H:%M:%S} UTC"
        if self._pending:
            pending = f"{value}; waits for a restart: {', '.join(self._pending)}"
            return [Check("configuration", "healthy", pending[:SHOWN_CHARS], hint="restart the daemon to apply these")]
        return [Check("configuration", "healthy", value)]

    def _hear(self, event: Event) -> None:
        if isinstance(event, ConfigurationApplied):
            self._loaded_at, self._problems, self._pending = datetime.now(UTC), (), event.pending
            self._refused_at = None
        elif isinstance(event, ConfigurationRefused):
            self._problems = event.problems
            self._refused_at = self._refused_at or datetime.now(UTC)


def facts(bus: Bus) -> RoomFacts:
    """The configuration's check."""
    return RoomFacts(checks=ConfigurationFacts(bus).checks)
