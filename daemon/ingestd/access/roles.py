"""Roles and the permissions they carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["viewer", "operator", "admin"]
Permission = Literal["public", "read", "operate", "administer"]
Via = Literal["cli", "api", "page", "folder", "schedule", "workflow", "system"]

_GRANTS: dict[Role, frozenset[Permission]] = {
    "viewer": frozenset({"public", "read"}),
    "operator": frozenset({"public", "read", "operate"}),
    "admin": frozenset({"public", "read", "operate", "administer"}),
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and through which door.

    Args:
        name: the person, token or part of the daemon.
        role: what it may do.
        via: the entrance it came through.
        correlation_id: joins everything that one request caused.
    """

    name: str
    role: Role
    via: Via
    correlation_id: str | None = None

    def may(self, permission: Permission) -> bool:
        """Whether the actor's role carries the permission."""
        return permission in _GRANTS[self.role]


def system_actor() -> Actor:
    """The daemon itself."""
    return Actor("ingestd", "admin", "system")
