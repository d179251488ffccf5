"""The `[admin]` part of the configuration."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer, SecretStr, field_validator, model_validator

from ingestd.jobs.settings import Rate, parse_rate
from ingestd.settings import ConfigPath, Secret, Section, StrList

BY_SOCKET = "unix"  # what trusted_proxies calls a proxy that comes through the socket
LONGEST_SOCKET = 107  # bytes that the kernel has room for


def _parse_request_rate(value: object) -> Rate:
    try:
        return parse_rate(value)
    except ValueError:
        raise ValueError(f'"{value}" is not a rate: write a number of requests and a duration, such as "600/1m"; empty: no limit') from None


RequestRate = Annotated[Rate, BeforeValidator(_parse_request_rate), PlainSerializer(str, return_type=str, when_used="json")]
OptionalPath = Annotated[ConfigPath | None, BeforeValidator(lambda value: None if value == "" else value)]


class AdminSettings(Section):
    """Where the admin server listens, who may come in, and how often.

    Args:
        host: an address of this machine; one that others can reach takes TLS or a declared proxy, and tokens.
        port: TCP port; 0: any free one.
        token: a bearer token with the role admin; empty: none.
        public_url: the address people use, where a tunnel or proxy changes it, such as `https://ingestd.example.com`.
        socket: path of a Unix socket to serve as well; its peers are known by the kernel's word.
        tls_cert: PEM file with the certificate and its chain.
        tls_key: PEM file with its key.
        behind_proxy: a proxy that speaks TLS stands before the server: nobody is taken for somebody on this machine.
        trusted_proxies: whose X-Forwarded-For is believed, and who alone may bring requests when the address is not loopback.
        rate: requests in any period by one token, or one address without.
        trigger_rate: the same for what starts work by hand.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8420, ge=0, le=65535)
    token: Secret = SecretStr("")
    public_url: str = ""
    socket: OptionalPath = None
    tls_cert: OptionalPath = None
    tls_key: OptionalPath = None
    behind_proxy: bool = False
    trusted_proxies: StrList = Field(default_factory=list)
    rate: RequestRate = Rate(6000, parse_rate("1/1m").period)
    trigger_rate: RequestRate = Rate(120, parse_rate("1/1m").period)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the port."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    @property
    def open_to_locals(self) -> bool:
        """Whether somebody without a token can be taken for somebody on this machine."""
        return self.on_loopback and not self.behind_proxy

    def tls(self) -> ssl.SSLContext | None:
        """What TLS is spoken with, from the files as they are now; None: it is not.

        Raises:
            ValueError: the files are not what they should be.
        """
        if self.tls_cert is None or self.tls_key is None:
            return None
        for key, path in (("tls_cert", self.tls_cert), ("tls_key", self.tls_key)):
            _check_readable(key, path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.load(context)
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Have a context show the certificate as its files are now, to those who come from now on.

        Raises:
            ValueError: the files are not what they should be.
        """
        if self.tls_cert is None or self.tls_key is None:
            return
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key, password=_no_password)
        except ssl.SSLError as error:
            why = (error.reason or str(error)).replace("_", " ").lower()
            raise ValueError(f"{self.tls_cert} and {self.tls_key} are not a certificate and its key in PEM form: {why}") from None

    @field_validator("host")
    @classmethod
    def _address(cls, value: str) -> str:
        host = value.strip().removeprefix("[").removesuffix("]")
        if host == "localhost":
            return host
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            raise ValueError(
                f'"{value}" is not an address to listen on: write 127.0.0.1, ::1 or localhost, or an IP address of this machine'
            ) from None

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
        if valid and "@" in parts.netloc:
            raise ValueError("an address that people use carries no login")
        if not valid or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f'"{value}" is not an address such as "http://localhost:9000"')
        return f"{parts.scheme}://{parts.netloc}"

    @field_validator("socket")
    @classmethod
    def _fits(cls, value: Path | None) -> Path | None:
        if value is not None and len(str(value).encode()) > LONGEST_SOCKET:
            raise ValueError(f'"{value}" is too long for a socket: its path may have {LONGEST_SOCKET} bytes')
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            try:
                everybody = text != BY_SOCKET and ipaddress.ip_network(text).prefixlen == 0
            except ValueError:
                raise ValueError(f'"{text}" is not an address or network such as 10.0.0.7 or 10.0.0.0/24, nor "{BY_SOCKET}"') from None
            if everybody:
                raise ValueError(f'"{text}" is everybody: anybody could then say in X-Forwarded-For who they are')
        return value

    @model_validator(mode="after")
    def _closed(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: give both or none")
        if not self.on_loopback and self.tls_cert is None and not self.behind_proxy:
            raise ValueError(
                f'host = "{self.host}" can be reached from elsewhere, so it takes tls_cert and tls_key, or behind_proxy = true where a'
                " proxy speaks TLS before it; only loopback (127.0.0.1, ::1 or localhost) takes neither, and an SSH tunnel leads there"
            )
        if self.behind_proxy and not self.public_url:
            raise ValueError('behind_proxy takes public_url, the address people use, such as "https://ingestd.example.com"')
        if self.trusted_proxies and not self.behind_proxy:
            raise ValueError("trusted_proxies without behind_proxy = true: nobody's X-Forwarded-For is believed")
        if self.behind_proxy and not self.on_loopback and not self.trusted_proxies:
            raise ValueError("behind_proxy off loopback takes trusted_proxies, the addresses that the proxy comes from")
        if BY_SOCKET in self.trusted_proxies and self.socket is None:
            raise ValueError(f'trusted_proxies names "{BY_SOCKET}", and there is no socket')
        self.tls()
        return self


def _check_readable(key: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{key}: cannot read {path}: {error.strerror}") from None


def _no_password() -> str:
    # otherwise OpenSSL would ask for one on the terminal
    raise ValueError("tls_key is encrypted: a daemon has nobody to ask for its password; decrypt it, and guard the file")
