"""API tokens: `igd_<role>_<43 of base62>_<checksum>`.

The beginning lets secret scanners find one that leaked, the checksum tells a typing error from a wrong token without asking anybody.
256 random bits cannot be guessed, so a fast keyed hash is enough to keep them: what makes passwords slow to try is not needed here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingestd.access.roles import TOKEN_ROLES, Role

MARK = "igd_"
SECRET_LENGTH = 43  # 62 ** 43 is more than 2 ** 256
PREFIX_LENGTH = 8
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CHECK_LENGTH = 6
_TOLD = ("expires_at", "last_used_at", "last_used_from", "created_at", "created_by", "revoked_at", "revoked_by")
_FORM = re.compile(rf"igd_({'|'.join(TOKEN_ROLES)})_([0-9A-Za-z]{{{SECRET_LENGTH}}})_([0-9A-Za-z]{{{_CHECK_LENGTH}}})")


class Mistyped(ValueError):
    """A text that wants to be a token of ours and is not whole."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its holder has it.

    Args:
        text: all of it; shown once and kept nowhere.
        role: as written in it, for people; what counts is the database's row.
        prefix: the beginning of its secret, by which people know it in lists.
    """

    text: str
    role: Role
    prefix: str

    def __repr__(self) -> str:
        return f"Token({shown(self.role, self.prefix)})"


def make(role: Role) -> Token:
    """A new token; nobody knows it but the caller."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_LENGTH))
    start = f"{MARK}{role}_{body}"
    return Token(f"{start}_{_checksum(start)}", role, body[:PREFIX_LENGTH])


def looks_like_one(text: str) -> bool:
    """Whether somebody means this to be a token of ours."""
    return text.startswith(MARK)


def found_by(text: str) -> str:
    """What a token is looked for by: its name, its id, or the beginning of its secret, be it given as lists show it or as all of it.

    Whoever pastes a leaked token to end it should not leak it once more, into the log of a proxy.
    """
    text = text.strip().removesuffix("…")
    return (text.removeprefix(MARK).partition("_")[2][:PREFIX_LENGTH] or text) if looks_like_one(text) else text


def parse(text: str) -> Token:
    """Take a token apart.

    Raises:
        Mistyped: it is cut off, or a character of it is wrong.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise Mistyped("it has not the form igd_ROLE_SECRET_CHECKSUM")
    if match[3] != _checksum(text[: -_CHECK_LENGTH - 1]):
        raise Mistyped("its checksum does not fit")
    role: Role = next(role for role in TOKEN_ROLES if role == match[1])
    return Token(text, role, match[2][:PREFIX_LENGTH])


def digest(key: bytes, text: str) -> bytes:
    """What is kept of a token.

    Args:
        key: the database's own.
        text: the token.
    """
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def shown(role: str, prefix: str) -> str:
    """How a token is named to people who must not learn it."""
    return f"{MARK}{role}_{prefix}…"


def describe(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the database as people and programs are shown it: never its hash.

    `state` is `in force`, `expired` or `revoked`.
    """
    state = "revoked" if row["revoked_at"] else "expired" if row["expired"] else "in force"
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "begins": shown(row["role"], row["prefix"]),
        "role": row["role"],
        "scopes": list(row["scopes"]),
        "state": state,
        **{name: row[name] for name in _TOLD},
    }


def _checksum(text: str) -> str:
    rest, digits = zlib.crc32(text.encode()), []
    for _ in range(_CHECK_LENGTH):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
