"""A network of two machines on this one: a namespace whose link to us can be cut. Only root can make one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

OURS, THEIRS = "10.213.84.1", "10.213.84.2"


class Network:
    """A namespace that reaches us at `OURS`, and the command that runs something in it.

    Args:
        name: of the namespace; its two ends of the link are named after it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.inside = ("ip", "netns", "exec", name)

    def cut(self) -> None:
        """Take the link down on their side: nothing arrives any more, and nobody is told."""
        _run(*self.inside, "ip", "link", "set", f"{self.name}b", "down")

    def mend(self) -> None:
        """Bring the link up again."""
        _run(*self.inside, "ip", "link", "set", f"{self.name}b", "up")


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network for the length of a block; skips the test where none can be made."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a network namespace")
    made = Network(f"ig{os.getpid() % 100_000}")
    try:
        try:
            _run("ip", "netns", "add", made.name)
            _run("ip", "link", "add", f"{made.name}a", "type", "veth", "peer", "name", f"{made.name}b", "netns", made.name)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"this machine does not permit a network namespace: {getattr(error, 'stderr', None) or error}")
        _run("ip", "addr", "add", f"{OURS}/30", "dev", f"{made.name}a")
        _run("ip", "link", "set", f"{made.name}a", "up")
        _run(*made.inside, "ip", "addr", "add", f"{THEIRS}/30", "dev", f"{made.name}b")
        for device in ("lo", f"{made.name}b"):
            _run(*made.inside, "ip", "link", "set", device, "up")
        yield made
    finally:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            _run("ip", "netns", "del", made.name)


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
