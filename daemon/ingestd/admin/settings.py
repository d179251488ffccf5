"""The `[admin]` part of the configuration."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from ingestd.settings import Secret, Section


class AdminSettings(Section):
    """Where the admin server listens and who may act without a login.

    Args:
        host: a loopback address; nothing else can be served in this version.
        port: TCP port; 0: any free one.
        token: a bearer token with the role admin; empty: none.
        public_url: the address people use, where a tunnel or proxy changes it, such as `http://localhost:9000`.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8420, ge=0, le=65535)
    token: Secret = SecretStr("")
    public_url: str = ""

    @field_validator("host")
    @classmethod
    def _loopback(cls, value: str) -> str:
        host = value.strip().removeprefix("[").removesuffix("]")
        if host == "localhost":
            return host
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError(
                f'"{value}" is refused: only loopback (127.0.0.1, ::1 or localhost) can be served in this version;'
                " reach it from elsewhere through an SSH tunnel"
            )
        return host

    @field_validator("token")
    @classmethod
    def _sendable(cls, value: SecretStr) -> SecretStr:
        secret = value.get_secret_value()
        if secret and (len(secret) < 16 or not secret.isascii() or not secret.isprintable() or " " in secret):
            raise ValueError("a token has at least 16 printable ASCII characters and no spaces")
        return value

    @field_validator("public_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            valid = False
        if not valid or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f'"{value}" is not an address such as "http://localhost:9000"')
        return f"{parts.scheme}://{parts.netloc}"
