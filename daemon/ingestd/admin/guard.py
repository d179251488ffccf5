"""What a request must bring before it is looked at: our Host, and no foreign page behind it."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from ingestd.errors import Refused, UsageError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Hosts:
    """The addresses this server answers to: loopback names with its own port, and the public address if one is set.

    A page of another site whose name an attacker points at 127.0.0.1 sends that name as Host, and is refused.

    Args:
        host: the configured host.
        port: the port bound.
        public_url: the configured public address, or empty.
        own_addresses: whether the address that a connection was made to is a Host as well: names are what an attacker can point
            elsewhere, numbers are not.
    """

    def __init__(self, host: str, port: int, public_url: str = "", *, own_addresses: bool = False) -> None:
        self._port = port
        self._own_addresses = own_addresses
        self._public = origin(public_url)
        self._known = {(name, port) for name in (*LOOPBACK_NAMES, host.lower())}
        if self._public:
            self._known.add(self._public)

    def check_host(self, request: web.Request) -> None:
        """Refuse a request that was made to another name or port.

        Raises:
            UsageError: no Host, or several.
            Refused: not ours.
        """
        own = request.transport.get_extra_info("sockname") if request.transport is not None else None
        if not isinstance(own, tuple):
            return  # through the Unix socket, where no browser leads
        given = request.headers.getall("Host", [])
        if len(given) != 1:
            raise UsageError("exactly one Host header is needed")
        if not request.raw_path.startswith("/") and _host_of(request.raw_path) not in ("", given[0]):
            raise UsageError("the address in the request line and the Host header name different hosts")
        asked = {origin(f"http://{given[0]}"), origin(f"https://{given[0]}")}
        if not asked & self._known and not (self._own_addresses and (own[0], self._port) in asked):
            raise Refused(
                f'this server does not answer to the host "{given[0][:200]}"',
                hint="use the printed address, or set [admin] public_url to the address you use",
            )

    def check_site(self, request: web.Request) -> None:
        """Refuse what another site's page makes a browser send.

        Links from anywhere may be followed; everything else must come from our own page or from no page at all.

        Raises:
            Refused: it comes from another site, or cannot be told apart from that.
        """
        sites = set(request.headers.getall("Sec-Fetch-Site", []))
        if request.method in SAFE_METHODS:
            navigates = request.headers.get("Sec-Fetch-Mode") == "navigate"
            if sites & {"cross-site", "same-site"} and not navigates:
                raise Refused("a page of another site may not read from here")
            return
        if sites:
            allowed = sites <= {"same-origin", "none"}
        elif (came_from := request.headers.get("Origin")) is not None:
            allowed = self._is_ours(came_from, request.headers.get("Host", ""))
        else:  # not a browser of this decade: fine unless it carries something a browser would attach by itself
            allowed = "Cookie" not in request.headers
        if not allowed:
            raise Refused("a page of another site may not act here")

    def _is_ours(self, came_from: str, host: str) -> bool:
        at = origin(came_from)
        if at is None:
            return False
        # A proxy may send its own idea of a Host; the address that people use is ours all the same.
        return at == self._public or at in (origin(f"http://{host}"), origin(f"https://{host}"))


def _host_of(target: str) -> str | None:
    try:
        return urlsplit(target).netloc
    except ValueError:
        return None


def origin(url: str) -> tuple[str, int] | None:
    """Host name and port of a URL, lower case, or None where there is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not parts.hostname or port is None or parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        return None
    return parts.hostname, port
