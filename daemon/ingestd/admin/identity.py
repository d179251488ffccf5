"""Who makes a request: the holder of a token, or somebody on this machine, told apart by their socket's owner.

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

from ingestd.access import tokens
from ingestd.access.book import Known, TokenBook
from ingestd.access.roles import Actor, Via
from ingestd.admin.problems import Unauthorized

_TABLES = {4: Path("/proc/net/tcp"), 6: Path("/proc/net/tcp6")}
_HOW = "send a token as Authorization: Bearer TOKEN; `ingestd token create` makes one"


class Identity:
    """Resolves the actor of a request.

    Args:
        token: the configured admin token; empty: none.
        book: the database's tokens.
    """

    def __init__(self, token: str, book: TokenBook) -> None:
        self._token = token.encode()
        self._book = book
        # A connection never changes hands, so its owner is looked up once.
        self._owners: WeakKeyDictionary[Any, int | None] = WeakKeyDictionary()

    async def actor(self, request: web.Request, via: Via, correlation_id: str) -> Actor:
        """The one who asks.

        Raises:
            Unauthorized: the request carries credentials that are not ours.
            DatabaseUnreachable: whether they are ours cannot be found out now.
        """
        address = request.remote or "unix"
        given = request.headers.get("Authorization")
        if given is not None:
            return await self._holder(given, via, correlation_id, address)
        # Once a token exists, acting takes it; without any, the daemon's own user and root may act, everybody else may look.
        owner = None if self.takes_token else self._owner(request)
        if owner is not None and owner in (os.getuid(), 0):
            return Actor(f"local:{owner}", "operator", via, correlation_id, address=address)
        name = "local:anonymous" if owner is None else f"local:{owner}"
        return Actor(name, "viewer", via, correlation_id, address=address)

    @property
    def takes_token(self) -> bool:
        """Whether a token is defined, in the configuration or in the database."""
        return bool(self._token) or self._book.any

    async def _holder(self, header: str, via: Via, correlation_id: str, address: str) -> Actor:
        scheme, _, text = header.strip().partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise Unauthorized("the Authorization header holds no Bearer token: the token is not valid", hint=_HOW)
        if self._token and hmac.compare_digest(text.encode(), self._token):
            return Actor("token:admin", "admin", via, correlation_id, address=address)
        known = await self._known(text)
        self._book.used(known, address)
        return Actor(f"token:{known.name}", known.role, via, correlation_id, known.id, known.scopes, address)

    async def _known(self, text: str) -> Known:
        """A token of the database that is in force. That one has ended is only told to who holds it whole."""
        if not tokens.looks_like_one(text):
            raise Unauthorized("the token is not valid", hint=_HOW)
        try:
            tokens.parse(text)
        except tokens.Mistyped as error:
            raise Unauthorized(f"the token is not valid: {error}", hint="it was mistyped or cut off: copy it again, whole") from None
        known = await self._book.find(text)
        if known is None:
            raise Unauthorized("the token is not valid", hint="is it of another daemon? `ingestd token list` shows this one's")
        if known.revoked_at is not None:
            raise Unauthorized(f'the token "{known.name}" was revoked on {known.revoked_at:%Y-%m-%d %H:%M} UTC', hint="ask for another one")
        if known.expired and known.expires_at is not None:
            raise Unauthorized(f'the token "{known.name}" expired on {known.expires_at:%Y-%m-%d %H:%M} UTC', hint="ask for another one")
        return known

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
