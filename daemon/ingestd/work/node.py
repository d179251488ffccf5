"""Which process this is."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass, field
from uuid import UUID


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """One running daemon process: a fresh UUID per start, and the store whose files it can reach.

    Args:
        store: UUID of the local folder of files; persists over restarts.
    """

    store: UUID
    id: UUID = field(default_factory=uuid.uuid4)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    @property
    def name(self) -> str:
        """Host, process id and the start of the UUID, for people."""
        return node_name(self.host, self.pid)

    @property
    def application_name(self) -> str:
        """What this node's database sessions call themselves: a rescuer finds them by it."""
        return application_name(self.id)


def node_name(host: str | None = None, pid: int | None = None) -> str:
    """What people call a node: its host and process id; this process unless others are given."""
    return f"{host or socket.gethostname()}:{pid or os.getpid()}"


def application_name(node: UUID) -> str:
    """The application name of a node's database sessions; with the longest purpose it stays under 63 bytes."""
    return f"ingestd:{node}"
