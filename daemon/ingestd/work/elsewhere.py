"""What is known of a handler that does not run on the main loop."""

from __future__ import annotations

from typing import Protocol


class Elsewhere(Protocol):
    """A handler that runs in a thread or a process of its own.

    Args:
        killable: it ends whether it wants to or not.
    """

    killable: bool

    def stop(self) -> None:
        """Tell it to end."""
        ...

    async def stack(self) -> str:
        """Where it is now, as a traceback's lines."""
        ...
