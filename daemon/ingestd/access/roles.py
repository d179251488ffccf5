"""Roles and the permissions they carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["anonymous", "viewer", "operator", "admin"]
Permission = Literal["public", "read", "operate", "administer"]
Via = Literal["cli", "api", "page", "folder", "schedule", "workflow", "system"]

# What a token may be given; somebody without a name never is more than the door allows.
TOKEN_ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
_GRANTS: dict[Role, frozenset[Permission]] = {
    "anonymous": frozenset({"public"}),
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
        token_id: the token it came with, if it is one of the database's.
        scopes: the areas it is limited to; empty: all that its role may do.
        address: where it came from, if from a network.
    """

    name: str
    role: Role
    via: Via
    correlation_id: str | None = None
    token_id: int | None = None
    scopes: frozenset[str] = frozenset()
    address: str | None = None

    def may(self, permission: Permission) -> bool:
        """Whether the actor's role carries the permission."""
        return permission in _GRANTS[self.role]

    def reaches(self, area: str, permission: Permission) -> bool:
        """Whether the actor's scopes include an area.

        Args:
            area: the part of the daemon, such as `jobs`.
            permission: what is asked of it; the scope `jobs:read` is enough to read.
        """
        if not self.scopes or permission == "public" or area in self.scopes:
            return True
        return permission == "read" and f"{area}:read" in self.scopes
