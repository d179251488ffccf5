"""Tokens, and the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from ingestd.access import actions, tokens
from ingestd.access.store import AuditFilter, find_audit, list_tokens
from ingestd.access.tokens import describe
from ingestd.cli.shell import Shell
from ingestd.cli.sources import base


class Near(base.Near):
    """In the database."""

    async def create_token(self, name: str, role: str, scopes: Sequence[str], expires: str) -> tuple[dict[str, Any], bool]:
        """Make a token, its text with it, and whether acting took none before."""
        life = actions.parse_life(expires)
        first = not self.settings.admin.token.get_secret_value() and not await list_tokens(self.conn, every=True)
        made = await actions.create_token(self.conn, self.actor, name, role, scopes=scopes, valid_for=life)
        return describe(made.row) | {"token": made.text}, first

    async def tokens(self, *, every: bool) -> list[dict[str, Any]]:
        """Those in force, or those that ended too."""
        return [describe(row) for row in await list_tokens(self.conn, every)]

    async def revoke_token(self, which: str) -> dict[str, Any]:
        """End one by its name, its id or its beginning."""
        return describe(await actions.revoke_token(self.conn, self.actor, which))

    async def audit(self, which: AuditFilter, limit: int) -> list[dict[str, Any]]:
        """Who did what, the newest first."""
        return [dict(row) for row in await find_audit(self.conn, which, limit)]


class Far(base.Far):
    """At a daemon."""

    async def create_token(self, name: str, role: str, scopes: Sequence[str], expires: str) -> tuple[dict[str, Any], bool]:
        """Make a token, its text with it; acting took one before, or this could not have been asked."""
        body = {"name": name, "role": role, "scopes": list(scopes), "expires": expires}
        # no key that would have the answer kept: it holds the secret
        made = base.row(await self.api.post("/api/v1/tokens", body, keyed=False))
        made.pop("notice", None)
        return made, False

    async def tokens(self, *, every: bool) -> list[dict[str, Any]]:
        """Those in force, or those that ended too."""
        return base.items(await self.api.get("/api/v1/tokens", {"all": every}))

    async def revoke_token(self, which: str) -> dict[str, Any]:
        """End one by its name, its id or its beginning."""
        return base.row(await self.api.post("/api/v1/tokens/{name}/revoke", name=tokens.found_by(which), keyed=False))

    async def audit(self, which: AuditFilter, limit: int) -> list[dict[str, Any]]:
        """Who did what, the newest first."""
        words = ("object_type", "object_id", "actor", "action", "outcome")
        query = {word: getattr(which, word) for word in words} | {"from": which.since, "before": which.before_id}
        found: list[dict[str, Any]] = base.rows((await self.api.pages("/api/v1/audit", limit, query))[0])
        return found


def reach(shell: Shell) -> AbstractAsyncContextManager[Near | Far]:
    """The side that this invocation is about."""
    return base.reach(shell, Near, Far)
