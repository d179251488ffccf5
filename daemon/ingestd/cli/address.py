"""Where a daemon elsewhere is: `--url`, or INGESTD_URL. Pure, and light: read before any command is known."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from ingestd.errors import InvalidInput

_EXAMPLE = "http://127.0.0.1:8420, https://ingestd.example.com or unix:/run/ingestd/admin.sock"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon answers.

    Args:
        base: how every address of its API begins, without a slash at the end.
        socket: path of its Unix socket; empty: over TCP.
    """

    base: str
    socket: str = ""

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else self.base

    @property
    def overheard(self) -> bool:
        """Whether a secret that is sent there could be read on the way."""
        parts = urlsplit(self.base)
        host = parts.hostname or ""
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost" or host.endswith(".localhost")
        return not self.socket and parts.scheme == "http" and not loopback


def read_address(text: str, source: str) -> Address:
    """Read an address as people write it.

    Args:
        source: the option or variable that it stood in.

    Raises:
        InvalidInput: it is none.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise InvalidInput(
                f'{source}: "{text}" needs the whole path of the socket, such as unix:/run/ingestd/admin.sock', pointer=source
            )
        return Address("http://localhost", path)
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or any(character.isspace() for character in text):
        raise InvalidInput(f'{source}: "{text}" is not an address such as {_EXAMPLE}', pointer=source)
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(f"{source}: an address carries no login; give a token by --token or INGESTD_TOKEN", pointer=source)
    return Address(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}")


def check_token(text: str, source: str) -> str:
    """A token as a header can carry it.

    Raises:
        InvalidInput: it cannot.
    """
    token = text.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInput(f"{source}: a token has printable ASCII characters and no spaces", pointer=source)
    return token
