"""The HTTP API of a daemon, as commands ask it."""

from __future__ import annotations

import json
import os
import ssl
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from ingestd import __version__
from ingestd.cli.address import Address
from ingestd.cli.api_errors import DaemonFailed, DaemonUnreachable, error_of

CONNECT_S = 10.0
# A daemon gives up on a request after half of that.
ANSWER_S = 60.0
PAGE = 500
# What is asked once more with the same key, after its answer was lost, is done once.
TRIES = 3
NOTHING: Mapping[str, Any] = {}
_EXPIRED, _ANOTHER_NAME = 10, (62, 64)  # what OpenSSL calls X509_V_ERR_…
_BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError, ConnectionError)


class Api:
    """A daemon's API. Paths are written as its routes are, with `{name}` for what stands between the slashes.

    Args:
        http: carries the token and the correlation id.
        address: where the daemon is.
    """

    def __init__(self, http: aiohttp.ClientSession, address: Address) -> None:
        self._http = http
        self.address = address

    async def get(self, path: str, query: Mapping[str, Any] = NOTHING, **names: object) -> Any:
        """The document at an address.

        Args:
            path: as in the registry of routes.
            query: what of it is None is left out.
            names: what stands in the path's braces.

        Raises:
            IngestdError: what the daemon says is wrong, or that it does not answer.
        """
        return await self._ask("GET", filled(path, names), query)

    async def post(self, path: str, body: Mapping[str, Any] = NOTHING, *, keyed: bool = True, **names: object) -> Any:
        """Have something done; what of the body is None is left out.

        Args:
            keyed: with an Idempotency-Key, so that it is done once although it is asked again after a broken connection.

        Raises:
            IngestdError: what the daemon says is wrong, or that it does not answer.
        """
        given = {name: value for name, value in body.items() if value is not None}
        return await self._ask("POST", filled(path, names), body=given, key=str(uuid.uuid4()) if keyed else None)

    async def patch(self, path: str, body: Mapping[str, Any], **names: object) -> Any:
        """Change something; None in the body takes a value away.

        Raises:
            IngestdError: what the daemon says is wrong, or that it does not answer.
        """
        return await self._ask("PATCH", filled(path, names), body=body)

    async def delete(self, path: str, query: Mapping[str, Any] = NOTHING, **names: object) -> Any:
        """Take something away.

        Raises:
            IngestdError: what the daemon says is wrong, or that it does not answer.
        """
        return await self._ask("DELETE", filled(path, names), query)

    async def pages(self, path: str, limit: int, query: Mapping[str, Any] = NOTHING, **names: object) -> tuple[list[Any], bool]:
        """So many items of a list, over as many pages as it takes, and whether there are more.

        Raises:
            IngestdError: what the daemon says is wrong, or that it does not answer.
        """
        items: list[Any] = []
        cursor: str | None = None
        while True:
            page = await self.get(path, {**query, "limit": min(limit - len(items), PAGE), "cursor": cursor}, **names)
            items += page["items"]
            before, cursor = cursor, page["next_cursor"]
            if cursor is not None and cursor == before:
                raise DaemonUnreachable(f"{self.address} answers one page of {path} again and again")
            if cursor is None or len(items) >= limit:
                return items[:limit], cursor is not None or len(items) > limit

    @asynccontextmanager
    async def open(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Any request, its answer whatever it is.

        Args:
            path: with its query, encoded as it is to be sent.
            body: JSON; None: nothing.

        Raises:
            DaemonUnreachable: nobody answers.
        """
        given = {**({"Content-Type": "application/json"} if body is not None else {}), **headers}
        # An answer may go on for as long as anybody listens.
        endless = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=None)
        try:
            url = URL(self.address.base + path, encoded=True)
            async with self._http.request(method, url, data=body, headers=given, timeout=endless, allow_redirects=False) as answer:
                yield answer
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise self._silence(error) from None

    async def _ask(
        self, method: str, path: str, query: Mapping[str, Any] = NOTHING, body: Mapping[str, Any] | None = None, key: str | None = None
    ) -> Any:
        url = URL(self.address.base + path, encoded=True).with_query(
            [(name, text(value)) for name, value in query.items() if value is not None]
        )
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if key is not None:
            headers["Idempotency-Key"] = key
        data = None if body is None else json.dumps(body, default=text).encode()
        for left in reversed(range(TRIES)):
            try:
                # no redirect is followed: the token would go along
                async with self._http.request(method, url, data=data, headers=headers, allow_redirects=False) as answer:
                    return await self._read(answer)
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                harmless = method == "GET" or key is not None
                if not left or not harmless or not isinstance(error, _BROKEN) or isinstance(error, aiohttp.ClientConnectorError):
                    raise self._silence(error) from None
        raise AssertionError("the last try returns or raises")

    async def _read(self, answer: aiohttp.ClientResponse) -> Any:
        raw = await answer.read()
        try:
            document = json.loads(raw)
        except ValueError:
            document = None
        # Red health is an answer as well.
        if answer.status >= 400 and not (isinstance(document, dict) and "checks" in document):
            raise error_of(answer.status, document, str(self.address))
        if answer.status >= 300 or not isinstance(document, dict):
            raise DaemonUnreachable(f"what answers at {self.address} is not ingestd", hint="is the address right?")
        return document

    def _silence(self, error: Exception) -> DaemonUnreachable | DaemonFailed:
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError | ssl.SSLError):
            return _untrusted(str(self.address), error)
        if isinstance(error, TimeoutError):
            return DaemonUnreachable(f"no daemon answers at {self.address} in time")
        if isinstance(error, aiohttp.ClientConnectorError):
            return DaemonUnreachable(f"no daemon answers at {self.address}: {_reason(error.os_error)}")
        if isinstance(error, aiohttp.ServerDisconnectedError) and self.address.base.startswith("http://"):
            # It may have been killed just now, too.
            hint = "if it speaks TLS, write https://"
            return DaemonUnreachable(f"the connection to {self.address} broke: it was closed without an answer", hint=hint)
        if isinstance(error, aiohttp.ClientResponseError):
            return DaemonUnreachable(f"what answers at {self.address} is not ingestd: it speaks no HTTP", hint="is the address right?")
        if isinstance(error, aiohttp.ClientPayloadError):
            return DaemonUnreachable(f"the connection to {self.address} broke in the middle of an answer")
        return DaemonUnreachable(f"the connection to {self.address} broke: {str(error) or type(error).__name__}")


def _untrusted(address: str, error: Exception) -> DaemonUnreachable:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if not isinstance(cause, ssl.SSLCertVerificationError):
        if getattr(cause, "reason", None) == "WRONG_VERSION_NUMBER":
            return DaemonUnreachable(f"what answers at {address} does not speak TLS", hint="write http:// instead of https://")
        return DaemonUnreachable(f"no TLS with {address}: {cause}")
    hint = "SSL_CERT_FILE names a file with the authority that signed it, or with the certificate itself"
    given = os.environ.get("SSL_CERT_FILE")
    if cause.verify_code in _ANOTHER_NAME:
        hint = "ask by a name that stands in it, or have that one put in: `openssl x509 -noout -ext subjectAltName -in FILE` shows them"
    elif cause.verify_code == _EXPIRED:
        hint = "whoever runs it has to renew it, and to reload it"
    elif given and not os.access(given, os.R_OK):
        hint = f"SSL_CERT_FILE names {given}, which cannot be read"
    return DaemonUnreachable(f"{address}: its certificate is not trusted: {cause.verify_message.rstrip('.')}", hint=hint)


@asynccontextmanager
async def connect_api(
    address: Address, token: str = "", correlation_id: str | None = None, certificate: Path | None = None
) -> AsyncIterator[Api]:
    """Speak with a daemon for one command.

    Args:
        token: sent with every request; empty: none.
        correlation_id: joins what the command causes; None: a new one.
        certificate: file of the one certificate that is trusted, whatever name it is for; None: those that the system trusts.
    """
    headers = {
        "User-Agent": f"ingestd/{__version__}",
        "X-Correlation-ID": correlation_id or str(uuid.uuid4()),
        "Accept": "application/json",
    }
    if token:
        headers["Authorization"] = f"Bearer {token}"
    trusted: ssl.SSLContext | bool = True if certificate is None else _trusting(certificate)
    connector = aiohttp.UnixConnector(address.socket) if address.socket else aiohttp.TCPConnector(limit=4, ssl=trusted)
    timeout = aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=CONNECT_S)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as http:
        yield Api(http, address)


def _reason(error: OSError) -> str:
    # asyncio words a refused connection in its own way
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _trusting(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    return context


def filled(path: str, names: Mapping[str, object]) -> str:
    """A route's path with its braces filled, whatever the names hold."""
    for name, value in names.items():
        path = path.replace(f"{{{name}}}", _segment(str(value)))
    return path


def _segment(text: str) -> str:
    # "." and ".." mean something between slashes, even when they are encoded
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")


def text(value: Any) -> str:
    """A value as a query or a body carries it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
