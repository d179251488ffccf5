"""Who makes a request: the holder of the configured token, or somebody on this machine, told apart by their socket's owner.

Weakness: on loopback the peer's user is read from the kernel's socket table. A socket that is not found there (another network
namespace, a system without /proc) counts as a stranger's: it may look, not touch.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import sys
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web

from ingestd.access.roles import Actor, Via
from ingestd.admin.problems import Unauthorized

_TABLES = {4: Path("/proc/net/tcp"), 6: Path("/proc/net/tcp6")}


class Identity:
    """Resolves the actor of a request.

    Args:
        token: the configured admin token; empty: none.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        # A connection never changes hands, so its owner is looked up once.
        self._owners: WeakKeyDictionary[Any, int | None] = WeakKeyDictionary()

    def actor(self, request: web.Request, via: Via, correlation_id: str) -> Actor:
        """The one who asks.

        Raises:
            Unauthorized: the request carries credentials that are not ours.
        """
        given = request.headers.get("Authorization")
        if given is not None:
            scheme, _, secret = given.partition(" ")
            valid = bool(self._token) and scheme.lower() == "bearer"
            if not valid or not hmac.compare_digest(secret.strip().encode(), self._token):
                raise Unauthorized("the token is not valid", hint="send the configured [admin] token as a Bearer token")
            return Actor("token:admin", "admin", via, correlation_id)
        # Once a token exists, acting takes it; without any, the daemon's own user and root may act, everybody else may look.
        owner = None if self._token else self._owner(request)
        if owner is not None and owner in (os.getuid(), 0):
            return Actor(f"local:{owner}", "operator", via, correlation_id)
        return Actor("local:anonymous" if owner is None else f"local:{owner}", "viewer", via, correlation_id)

    @property
    def takes_token(self) -> bool:
        """Whether a token is configured."""
        return bool(self._token)

    def _owner(self, request: web.Request) -> int | None:
        transport = request.transport
        if transport is None:
            return None
        if transport not in self._owners:
            peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            self._owners[transport] = socket_owner(peer, own) if peer and own else None
        return self._owners[transport]


def socket_owner(peer: tuple[Any, ...], own: tuple[Any, ...]) -> int | None:
    """The user id that owns the other end of a connection on this machine.

    Args:
        peer: (address, port) of the other end.
        own: (address, port) of our end.

    Returns:
        The user id, or None where the kernel does not list that socket.
    """
    try:
        wanted = (_kernel_form(peer), _kernel_form(own))
        lines = _TABLES[ipaddress.ip_address(peer[0]).version].read_text(encoding="ascii").splitlines()[1:]
    except (OSError, ValueError):
        return None
    for line in lines:
        fields = line.split()
        # sl local_address rem_address st queues timers retransmits uid …; the peer's local end is our remote end
        if (fields[1], fields[2]) == wanted:
            return int(fields[7])
    return None


def _kernel_form(address: tuple[Any, ...]) -> str:
    packed = ipaddress.ip_address(address[0]).packed
    if sys.byteorder == "little":  # the table prints each 32-bit word in the machine's own order
        packed = b"".join(packed[i : i + 4][::-1] for i in range(0, len(packed), 4))
    return f"{packed.hex().upper()}:{address[1]:04X}"
