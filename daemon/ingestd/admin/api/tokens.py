"""`/api/v1/tokens`."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from ingestd.access import actions
from ingestd.access.store import list_tokens
from ingestd.access.tokens import describe
from ingestd.admin.answers.base import Page
from ingestd.admin.answers.data import Token, TokenMade
from ingestd.admin.routes import Call, Route, answer
from ingestd.errors import UsageError

ONCE = "Keep it now: it is not shown again."


class TokenRequest(BaseModel):
    """The body of `POST /api/v1/tokens`; docs/access.md says what each member does."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=63)]
    role: str = "viewer"
    scopes: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=50)] = []
    expires: Annotated[str, Field(max_length=60)] = "90d"


async def index(call: Call) -> web.Response:
    """The tokens in force, or with `all` those that ended too."""
    wanted = call.query.get("all", "false")
    if wanted not in ("true", "false"):
        raise UsageError('"all" must be true or false')
    async with call.reading() as conn:
        items = [describe(row) for row in await list_tokens(conn, wanted == "true")]
    return answer({"items": items, "next_cursor": None})


async def create(call: Call) -> web.Response:
    """Make a token; this answer is the only one that holds it."""
    body = await call.body(TokenRequest)
    async with call.acting() as conn:
        made = await actions.create_token(
            conn, call.actor, body.name, body.role, scopes=body.scopes, valid_for=actions.parse_life(body.expires)
        )
    shown = describe(made.row) | {"token": made.text, "notice": ONCE}
    return answer(shown, 201)


async def revoke(call: Call) -> web.Response:
    """End a token, on all nodes at once."""
    async with call.acting() as conn:
        row = await actions.revoke_token(conn, call.actor, call.name)
    await call.state.tokens.refresh()
    return answer(describe(row))


def routes() -> list[Route]:
    """This resource's routes."""
    return [
        Route("GET", "/api/v1/tokens", "administer", index, "Tokens in force", ("all",), answers={200: Page[Token]}),
        Route(
            "POST", "/api/v1/tokens", "administer", create, "Make a token; it is shown once", answers={201: TokenMade}, body=TokenRequest
        ),
        Route("POST", "/api/v1/tokens/{name}/revoke", "administer", revoke, "End a token by name, id or beginning", answers={200: Token}),
    ]
