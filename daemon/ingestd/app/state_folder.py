"""`[daemon] state_dir`: making it, who may be in it alone, and where it says what port the page is on."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ingestd.errors import AlreadyRunning, Refused
from ingestd.postgres.flock import FileLock


class StateFolder:
    """The folder that holds what one node keeps.

    Args:
        folder: where it is, or is to be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = ""

    def make(self) -> None:
        """Make it where it is missing.

        Raises:
            Refused: it cannot be made.
        """
        # Root's Postgres runs as another user, who must be able to pass through, not to look; what lies inside is closed by itself.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            self._folder.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"cannot make the state folder {self._folder}: {error.strerror}", hint="set [daemon] state_dir") from None

    def only_once(self) -> FileLock:
        """Be the only `run --once` here, until the lock is dropped or this process dies.

        Raises:
            AlreadyRunning: another one is at it.
        """
        lock = FileLock(self._folder / "once.lock", os.geteuid())
        if not lock.try_exclusive():
            raise AlreadyRunning(
                f"another `run --once` is at work in {self._folder}", hint="it does what is due; the next one finds what is due by then"
            )
        return lock

    def tell_port(self, port: int) -> None:
        """Write down where the admin server listens."""
        self._port = f"{port}\n"
        self._port_file.write_text(self._port, encoding="ascii")

    def forget_port(self) -> None:
        """The admin server is no more; another node in the same folder may have written its own port since."""
        with suppress(OSError):
            if self._port_file.read_text(encoding="ascii") == self._port:
                self._port_file.unlink()

    @property
    def _port_file(self) -> Path:
        return self._folder / "admin.port"
