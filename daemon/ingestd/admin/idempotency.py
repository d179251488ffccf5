"""`Idempotency-Key`: a request sent twice is done once, and answered twice with the same.

The key, the effect and the answer are one transaction. So a crash leaves all of them or none, and of many that come at once the first
one acts while the others wait for its commit. An error keeps no key: what was refused may be sent again as it is.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import asyncpg
from aiohttp import web
from multidict import istr

from ingestd.admin.bodies import Empty
from ingestd.admin.store import claim_key, keep_answer
from ingestd.errors import Conflict, InvalidInput, UsageError

if TYPE_CHECKING:
    from ingestd.admin.routes import Call, Route

HEADER = istr("Idempotency-Key")
REPLAYED = istr("Idempotent-Replayed")
MAX_KEY = 255
WAIT_MS = 10_000
_KEPT_HEADERS = ("Location",)
_API = "/api/"


async def answer_once(call: Call, route: Route) -> web.StreamResponse:
    """Answer a request; one with a key that was answered before gets that answer again.

    Raises:
        UsageError: the key makes no sense, or not here.
        InvalidInput: the key came with another request before.
        Conflict: the first request with this key is still at work.
    """
    if route.body is None and route.method != "GET" and route.path.startswith(_API):
        # Not passed over: whoever sends a reason believes that it is kept.
        await call.body(Empty)
    given = call.request.headers.getall(HEADER, [])
    if not given or route.method == "GET":
        return await route.handler(call)
    if not route.once:
        raise UsageError(f"{route.method} {route.path} takes no Idempotency-Key: it may be sent again without one")
    key = _checked(given)
    principal = f"token {call.actor.token_id}" if call.actor.token_id is not None else call.actor.name
    asked = await _fingerprint(call)
    async with call.acting() as conn:
        try:
            before = await claim_key(conn, principal, key, asked, WAIT_MS)
        except asyncpg.LockNotAvailableError:
            raise Conflict(
                "a request with this Idempotency-Key is still at work", current_state="running", hint="send it again in a while"
            ) from None
        if before is not None:
            return _again(before, asked)
        response = await route.handler(call)
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        kept = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        await keep_answer(conn, principal, key, response.status, kept, response.body)
    return response


def _checked(given: list[str]) -> str:
    (key, *more) = given
    # The draft of the header has it in quotes, most callers do not.
    key = key[1:-1] if len(key) > 2 and key[0] == key[-1] == '"' else key
    if more or not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise UsageError(f"Idempotency-Key must be one text of 1 to {MAX_KEY} printable ASCII characters, such as a UUID")
    return key


async def _fingerprint(call: Call) -> bytes:
    digest = hashlib.sha256(f"{call.request.method} {call.request.path_qs}\n".encode())
    digest.update(await call.raw())
    return digest.digest()


def _again(before: asyncpg.Record, asked: bytes) -> web.Response:
    if bytes(before["fingerprint"]) != asked:
        raise InvalidInput("this Idempotency-Key came with another request before: use a new key for a new request", pointer=str(HEADER))
    headers = dict(before["headers"]) | {REPLAYED: "true"}
    return web.Response(status=before["status"], body=bytes(before["body"]), content_type="application/json", headers=headers)
