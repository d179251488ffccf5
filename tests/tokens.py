"""Tokens for tests: one of each role, and ones that let nobody in any more."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import asyncpg

from ingestd.access.actions import create_token, revoke_token
from ingestd.access.roles import Actor

MAKER = Actor("the test", "admin", "cli")
EXPIRE = "update ingestd.token set expires_at = now() - interval '1 s' where id = $1"


def bearer(token: str) -> dict[str, str]:
    """The header that a token is sent in."""
    return {"Authorization": f"Bearer {token}"}


async def make_token(
    conn: asyncpg.Connection,
    role: str = "operator",
    name: str | None = None,
    *,
    scopes: Iterable[str] = (),
    expired: bool = False,
    revoked: bool = False,
) -> str:
    """A new token's text; a server that runs knows it at once.

    Args:
        name: `test-<role>` if not given.
        expired: whether its time is over.
        revoked: whether it was revoked.
    """
    made = await create_token(conn, MAKER, name or f"test-{role}", role, scopes=scopes, valid_for=timedelta(days=1))
    if expired:
        await conn.execute(EXPIRE, made.row["id"])
    if revoked:
        await revoke_token(conn, MAKER, made.text)
    return made.text


async def tokens_of_each_role(conn: asyncpg.Connection) -> dict[str, str]:
    """Texts of `viewer`, `operator`, `admin`, and of `expired` and `revoked`, which were an admin's."""
    live = {role: await make_token(conn, role) for role in ("viewer", "operator", "admin")}
    return live | {
        "expired": await make_token(conn, "admin", "test-expired", expired=True),
        "revoked": await make_token(conn, "admin", "test-revoked", revoked=True),
    }
