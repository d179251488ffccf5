"""Who is at the other end of a connection: an address, and on this machine the system user.

Weakness: on loopback the peer's user is read from the kernel's socket table. A socket that is not found there (another network
namespace, a system without /proc) counts as a stranger's: it may look, not touch. On a Unix socket the kernel says it itself.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web

from ingestd.admin.settings import BY_SOCKET, AdminSettings

UNIX = "unix"
_TABLES = {4: Path("/proc/net/tcp"), 6: Path("/proc/net/tcp6")}
_CREDENTIALS = struct.Struct("3i")
_LOOPBACK = ("127.0.0.0/8", "::1/128")
_FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Proto", "Via")
_MOST_HOPS = 20

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Peers:
    """Knows the other ends of the server's connections.

    Args:
        settings: where it listens, and which proxies it believes.
    """

    def __init__(self, settings: AdminSettings) -> None:
        self._settings = settings
        given = [text for text in settings.trusted_proxies if text != BY_SOCKET]
        self._socket_is_proxy = BY_SOCKET in settings.trusted_proxies
        # On loopback a proxy that nobody named is one of this machine.
        named = given or ([] if self._socket_is_proxy or not settings.behind_proxy else _LOOPBACK)
        self._proxies = [ipaddress.ip_network(text) for text in named]
        # A connection never changes hands, so its owner is looked up once.
        self._owners: WeakKeyDictionary[Any, int | None] = WeakKeyDictionary()

    def address(self, request: web.Request) -> str:
        """Where a request comes from: the peer, or whom a proxy that we believe names."""
        peer = _peer_address(request)
        if not self._is_proxy(peer):
            return str(peer or UNIX)
        hops = [hop.strip() for line in request.headers.getall("X-Forwarded-For", []) for hop in line.split(",")]
        for hop in reversed(hops[-_MOST_HOPS:]):
            named = _parse(hop)
            if named is None:
                break
            peer = named
            if not self._is_proxy(named):
                break
        return str(peer or UNIX)

    def came_as_declared(self, request: web.Request) -> bool:
        """Whether a request took the way that is meant: where a proxy speaks TLS, nobody else brings any."""
        if self._settings.on_loopback or not self._settings.behind_proxy or self._settings.tls_cert is not None:
            return True
        peer = _peer_address(request)
        return peer is None or self._is_proxy(peer)

    def by_socket(self, request: web.Request) -> bool:
        """Whether it came through the Unix socket, from this machine."""
        return _peer_address(request) is None and not self._socket_is_proxy and not _forwarded(request)

    def owner(self, request: web.Request) -> int | None:
        """The system user at the other end, where it is one of this machine and that may count; else None."""
        transport = request.transport
        if transport is None:
            return None
        if _peer_address(request) is None:
            return _credentials(transport) if self.by_socket(request) else None
        if not self._settings.open_to_locals or _forwarded(request):
            return None
        if transport not in self._owners:
            peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            self._owners[transport] = socket_owner(peer, own) if peer and own else None
        return self._owners[transport]

    def _is_proxy(self, address: _Address | None) -> bool:
        if address is None:
            return self._socket_is_proxy
        return any(address in network for network in self._proxies)


def _peer_address(request: web.Request) -> _Address | None:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return _parse(str(peer[0])) if isinstance(peer, tuple) and peer else None


def _forwarded(request: web.Request) -> bool:
    """Whether somebody passes it on for somebody else: a proxy of this machine that nobody declared must not lend out its rights."""
    return any(name in request.headers for name in _FORWARDED)


def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _credentials(transport: Any) -> int | None:
    sock = transport.get_extra_info("socket")
    try:
        return int(_CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1])
    except (OSError, AttributeError, struct.error):
        return None


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
        # sl local_address rem_address st queues timers retransmits uid timeout inode …; the peer's local end is our remote end
        if (fields[1], fields[2]) == wanted:
            # Without an inode no process holds it any more, and the kernel gives it to user 0, whoever has closed it.
            return int(fields[7]) if fields[9] != "0" else None
    return None


def _kernel_form(address: tuple[Any, ...]) -> str:
    packed = ipaddress.ip_address(address[0]).packed
    if sys.byteorder == "little":  # the table prints each 32-bit word in the machine's own order
        packed = b"".join(packed[i : i + 4][::-1] for i in range(0, len(packed), 4))
    return f"{packed.hex().upper()}:{address[1]:04X}"
