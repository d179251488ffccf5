"""What may be asked of a running daemon from outside; signals and tests set it, the app obeys."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class Control:
    """Requests to a running app.

    Args:
        drain: stop, letting jobs finish.
        force: hand jobs back at once.
        reload: read the configuration again.
    """

    drain: asyncio.Event = field(default_factory=asyncio.Event)
    force: asyncio.Event = field(default_factory=asyncio.Event)
    reload: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """Drain at the first call, force at the second."""
        if self.drain.is_set():
            self.force.set()
        self.drain.set()
