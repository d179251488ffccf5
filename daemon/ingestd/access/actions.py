"""What people do to tokens: an effect and its audit row in one transaction."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from ingestd.access import store, tokens
from ingestd.access.roles import TOKEN_ROLES, Actor, Role
from ingestd.access.scopes import parse_scopes, rank, within
from ingestd.errors import Conflict, InvalidInput, NotFound, Refused
from ingestd.settings import did_you_mean, format_duration, parse_duration

DEFAULT_LIFE = timedelta(days=90)
SHORTEST, LONGEST = timedelta(minutes=1), timedelta(days=3660)
KEY = "token"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._@-]{0,62}")
_CONFIGURED = "admin"  # the audit log calls the configuration's own token so


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A token just made.

    Args:
        text: what its holder sends; it is shown this once.
        row: what is kept of it.
    """

    text: str
    row: dict[str, Any]

    def __repr__(self) -> str:
        return f"MadeToken({self.row['name']})"


async def create_token(
    conn: asyncpg.Connection,
    actor: Actor,
    name: str,
    role: str,
    *,
    scopes: Iterable[str] = (),
    valid_for: timedelta | None = DEFAULT_LIFE,
) -> MadeToken:
    """Make a token.

    Args:
        name: what people call it.
        scopes: the areas it is limited to; none: all that its role may do.
        valid_for: how long it lets somebody in; None: until it is revoked.

    Raises:
        InvalidInput: no such role or scope, or not a name.
        Refused: the actor may do less than the new token.
        Conflict: a token of that name is in force.
    """
    chosen, areas = _role(role), parse_scopes(scopes)
    _check(name, valid_for)
    if rank(chosen) > rank(actor.role) or not within(areas, actor.scopes):
        raise Refused("a token cannot make one that may do more than itself", hint=_limits(actor))
    token = tokens.make(chosen)
    async with conn.transaction():
        hashed = tokens.digest(await store.secret(conn, KEY), token.text)
        try:
            async with conn.transaction():
                row = await store.add_token(
                    conn,
                    name=name,
                    prefix=token.prefix,
                    hashed=hashed,
                    role=chosen,
                    scopes=areas,
                    created_by=actor.name,
                    valid_for=valid_for,
                )
        except asyncpg.UniqueViolationError:
            raise Conflict(
                f'a token "{name}" is in force',
                hint=f"choose another name, or `ingestd token revoke {name}` first",
                current_state="in force",
            ) from None
        await store.record_audit(conn, actor, "create", "token", row["id"], _told(row))
    return MadeToken(token.text, dict(row))


async def revoke_token(conn: asyncpg.Connection, actor: Actor, which: str) -> dict[str, Any]:
    """End a token: all nodes refuse it from now on.

    Args:
        which: its id, its name, or the beginning of its secret as lists show it.

    Raises:
        NotFound: there is no such token.
        Conflict: it was revoked before.
    """
    async with conn.transaction():
        token = await _find(conn, which)
        revoked = await store.revoke_token(conn, token["id"], actor.name)
        if revoked is None:
            raise Conflict(
                f'token "{token["name"]}" was revoked before, on {token["revoked_at"]:%Y-%m-%d %H:%M} UTC', current_state="revoked"
            )
        await store.record_audit(conn, actor, "revoke", "token", token["id"], _told(token))
    return dict(revoked)


async def _find(conn: asyncpg.Connection, which: str) -> asyncpg.Record:
    text = tokens.found_by(which)
    found = await store.find_tokens(conn, text) if text else []
    if not found:
        known = [row["name"] for row in await store.list_tokens(conn)]
        raise NotFound(f'there is no token "{text[:100]}"{did_you_mean(text, known)}', hint="`ingestd token list --all` shows every one")
    return found[0]


def parse_life(text: str) -> timedelta | None:
    """Read how long a token is to let somebody in: a duration, or `never` for one that does not expire.

    Raises:
        InvalidInput: it is neither.
    """
    if text.strip().lower() == "never":
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise InvalidInput(f"{error}; or write never", pointer="/expires") from None


def _role(text: str) -> Role:
    for role in TOKEN_ROLES:
        if role == text:
            return role
    raise InvalidInput(f'"{text[:100]}" is not a role: viewer, operator or admin{did_you_mean(text, TOKEN_ROLES)}', pointer="/role")


def _check(name: str, valid_for: timedelta | None) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f'"{name[:100]}" is not a name for a token: a letter, then up to 62 letters, digits or . _ @ -', pointer="/name")
    if name == _CONFIGURED:
        raise InvalidInput('"admin" is what the audit log calls the token of the configuration: choose another name', pointer="/name")
    if valid_for is not None and not SHORTEST <= valid_for <= LONGEST:
        shortest, longest = format_duration(SHORTEST), format_duration(LONGEST)
        raise InvalidInput(f'a token expires after {shortest} to {longest}, or never ("never")', pointer="/expires")


def _limits(actor: Actor) -> str:
    scopes = f", limited to {', '.join(sorted(actor.scopes))}" if actor.scopes else ""
    return f"yours has the role {actor.role}{scopes}"


def _told(row: asyncpg.Record) -> dict[str, Any]:
    expires = row["expires_at"].isoformat() if row["expires_at"] else None
    told = {"name": row["name"], "role": row["role"], "begins": tokens.shown(row["role"], row["prefix"]), "expires_at": expires}
    return told | ({"scopes": list(row["scopes"])} if row["scopes"] else {})
