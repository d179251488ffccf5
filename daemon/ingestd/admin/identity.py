"""Who makes a request: the holder of a token, or somebody on this machine, told apart by their socket's owner."""

from __future__ import annotations

import hmac
import os

from aiohttp import web

from ingestd.access import tokens
from ingestd.access.book import Known, TokenBook
from ingestd.access.roles import Actor, Via
from ingestd.admin.limits import Limits
from ingestd.admin.peers import Peers
from ingestd.admin.problems import Unauthorized
from ingestd.admin.settings import AdminSettings
from ingestd.errors import Refused

CONFIGURED = "token:admin"
UNGUESSABLE = 32  # characters, over a network
_ANOTHER = "ask for another one; `ingestd token list --all` shows what became of this one"
_HOW = "send a token as Authorization: Bearer TOKEN; `ingestd token create` makes one"


class Identity:
    """Resolves the actor of a request.

    Args:
        settings: the configured admin token, and how the server is reached.
        book: the database's tokens.
        limits: counts wrong tokens.
    """

    def __init__(self, settings: AdminSettings, book: TokenBook, limits: Limits) -> None:
        self._token = b""
        self.renew(settings)
        self._open = settings.open_to_locals
        self._book = book
        self._limits = limits
        self.peers = Peers(settings)

    def renew(self, settings: AdminSettings) -> bool:
        """Take another token of the configuration; returns whether it is another one."""
        before, self._token = self._token, settings.token.get_secret_value().encode()
        return before != self._token

    async def actor(self, request: web.Request, via: Via, correlation_id: str) -> Actor:
        """The one who asks.

        Raises:
            Unauthorized: the request carries credentials that are not ours, or several.
            OverLimit: its address was wrong too often.
            DatabaseUnreachable: whether they are ours cannot be found out now.
        """
        address = self.peers.address(request)
        given = request.headers.getall("Authorization", [])
        if len(given) > 1:  # each of those that it passes may believe another one
            raise Unauthorized("several Authorization headers: send one")
        if given:
            return await self._holder(given[0], via, correlation_id, address)
        if self.peers.by_socket(request):
            # The kernel vouches for them, tokens or not.
            return _local(self.peers.owner(request), via, correlation_id, address)
        if not self._open:
            return Actor("anonymous", "anonymous", via, correlation_id, address=address)
        # Once a token exists, acting takes it; without any, the daemon's own user and root may act, everybody else may look.
        owner = None if self.takes_token else self.peers.owner(request)
        return _local(owner, via, correlation_id, address)

    def check_way(self, request: web.Request) -> None:
        """Refuse what did not come through the proxy that is declared to speak TLS.

        Raises:
            Refused: it came past it.
        """
        if not self.peers.came_as_declared(request):
            raise Refused(
                "this server is reached through its proxy only",
                hint="[admin] trusted_proxies names the addresses that the proxy comes from",
            )

    @property
    def takes_token(self) -> bool:
        """Whether a token is defined, in the configuration or in the database."""
        return bool(self._token) or self._book.any

    async def _holder(self, header: str, via: Via, correlation_id: str, address: str) -> Actor:
        scheme, _, text = header.strip().partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise Unauthorized("the Authorization header holds no Bearer token: the token is not valid", hint=_HOW)
        if len(self._token) < UNGUESSABLE and not _is_whole(text):
            # A short token of the configuration may be one that a person thought up: guesses at it are slowed down. What cannot be
            # guessed passes even where somebody else at the same address guesses.
            self._limits.check_guesses(address)
        if self._token and hmac.compare_digest(text.encode(errors="surrogateescape"), self._token):
            return Actor(CONFIGURED, "admin", via, correlation_id, address=address)
        known = await self._known(text, address)
        self._book.used(known, address)
        return Actor(f"token:{known.name}", known.role, via, correlation_id, known.id, known.scopes, address)

    async def _known(self, text: str, address: str) -> Known:
        """A token of the database that is in force. That one has ended is told to whoever holds it whole, as often as they ask."""
        known = await self._book.find(text) if _is_whole(text) else None
        if known is None:
            self._limits.check_guesses(address)
            self._limits.was_wrong(address)
            raise _not_valid(text)
        if known.revoked_at is not None:
            raise Unauthorized(f'the token "{known.name}" was revoked on {known.revoked_at:%Y-%m-%d %H:%M} UTC', hint=_ANOTHER)
        if known.expired and known.expires_at is not None:
            raise Unauthorized(f'the token "{known.name}" expired on {known.expires_at:%Y-%m-%d %H:%M} UTC', hint=_ANOTHER)
        return known


def _is_whole(text: str) -> bool:
    try:
        tokens.parse(text)
    except tokens.Mistyped:
        return False
    return True


def _not_valid(text: str) -> Unauthorized:
    """Which mistake it is, as far as anybody could tell who has nothing but the text."""
    if not tokens.looks_like_one(text):
        return Unauthorized("the token is not valid", hint=_HOW)
    try:
        tokens.parse(text)
    except tokens.Mistyped as error:
        return Unauthorized(f"the token is not valid: {error}", hint="it was mistyped or cut off: copy it again, whole")
    return Unauthorized(
        "the token is not valid: nobody made it here", hint="is it of another daemon? `ingestd token list` shows this one's"
    )


def _local(owner: int | None, via: Via, correlation_id: str, address: str) -> Actor:
    if owner is not None and owner in (os.getuid(), 0):
        return Actor(f"local:{owner}", "operator", via, correlation_id, address=address)
    return Actor("local:anonymous" if owner is None else f"local:{owner}", "viewer", via, correlation_id, address=address)
