"""`/api/v1/events`: what happens on all nodes, as it happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from ingestd.admin.answers.base import Page
from ingestd.admin.answers.data import Event
from ingestd.admin.happenings import NAMES
from ingestd.admin.live import Happening
from ingestd.admin.middleware import CORRELATION, HEADERS
from ingestd.admin.routes import MAX_ID, Call, Route, answer
from ingestd.admin.shapes import with_text_ids
from ingestd.admin.store import latest_events
from ingestd.errors import UsageError
from ingestd.settings import did_you_mean

STREAM = "text/event-stream"
RETRY_MS = 2000
SILENCE_S = 15.0
# One that takes nothing for so long is gone, or as good as.
STALL_S = 10.0
MAX_TYPES = 20
_OF_PAGES = ("limit", "cursor")


async def index(call: Call) -> web.StreamResponse:
    """A stream of events from now on, or behind `Last-Event-ID`; to a caller that accepts JSON only, the latest of them."""
    accepts = call.request.headers.get("Accept", "")
    if "application/json" in accepts and STREAM not in accepts:
        return await _latest(call)
    return await _stream(call)


async def _latest(call: Call) -> web.Response:
    limit, cursors = call.limit(), await call.cursors()
    patterns = [_like(name) for name in _names(call)] or None
    async with call.reading() as conn:
        found = await latest_events(conn, patterns, cursors.read_id(), _after(call), limit + 1)
    return answer(cursors.page([dict(row) for row in found], limit, _shape))


async def _stream(call: Call) -> web.StreamResponse:
    _refuse_words_of_pages(call)
    names, after = _names(call), _after(call)
    live = call.state.live
    live.check_room()
    oldest, newest = await live.span()
    response = web.StreamResponse(headers={"Content-Type": STREAM, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    for name, value in (HEADERS | {"X-Correlation-ID": CORRELATION.get()}).items():
        response.headers[name] = value
    await response.prepare(call.request)
    if call.request.method == "HEAD":
        return response
    missed = after is not None and not (oldest - 1 <= after <= newest)
    place = newest if after is None or missed else after
    hello = b"id: %d\nretry: %d\n\n" % (place, RETRY_MS)
    if missed:
        hello += b'event: reset\ndata: {"reason": "events behind that one are not kept any more: look at everything anew"}\n\n'
    spoke = time.monotonic()
    async with aclosing(live.listen(place)) as batches:
        async for batch in batches:
            if call.request.transport is None or not call.state.tokens.still(call.actor.token_id):
                break  # gone, which is told of by no error as long as there is nothing to write
            text = hello + b"".join(_frame(one) for one in batch if _wanted(one.name, names))
            hello = b""
            if batch and not text:
                text = b"id: %d\n\n" % batch[-1].id  # passed over, but not to be read again
            elif not text and time.monotonic() - spoke >= SILENCE_S:
                text = b": nothing new\n\n"
            if text and not await _send(call, response, text):
                break
            spoke = time.monotonic() if text else spoke
    return response


def _refuse_words_of_pages(call: Call) -> None:
    for word in _OF_PAGES:
        if word in call.query:
            raise UsageError(
                f'"{word}" belongs to a page of events, and this is a stream', hint="ask with Accept: application/json for a page"
            )


async def _send(call: Call, response: web.StreamResponse, text: bytes) -> bool:
    """Whether the listener took it."""
    try:
        async with asyncio.timeout(STALL_S):
            await response.write(text)
    except TimeoutError:
        if call.request.transport is not None:
            call.request.transport.abort()
        return False
    except ConnectionError:
        return False
    return True


def _frame(one: Happening) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (one.id, one.name.encode(), one.data)


def _after(call: Call) -> int | None:
    text = call.request.headers.get("Last-Event-ID") or call.query.get("after")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) > MAX_ID:
        raise UsageError(f'"{text[:100]}" is not the id of an event')
    return int(text)


def _names(call: Call) -> list[str]:
    names = [name.strip() for name in call.query.get("type", "").split(",") if name.strip()]
    if len(names) > MAX_TYPES:
        raise UsageError(f'"type" takes at most {MAX_TYPES} names')
    for name in names:
        if not any(_wanted(known, [name]) for known in NAMES):
            near = did_you_mean(name, NAMES) or f"; one of: {', '.join(NAMES)}"
            raise UsageError(f'"type" cannot be "{name[:100]}"{near}')
    return names


def _wanted(name: str, names: list[str]) -> bool:
    return not names or any(name == wanted or (wanted.endswith("*") and name.startswith(wanted[:-1])) for wanted in names)


def _like(name: str) -> str:
    begins = name.endswith("*")
    escaped = (name[:-1] if begins else name).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped + ("%" if begins else "")


def _shape(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = with_text_ids(row, ("id",))
    shown["event"] = shown.pop("name")
    return shown


def routes() -> list[Route]:
    """This resource's route."""
    query = ("type", "after", "limit", "cursor")
    return [
        Route(
            "GET",
            "/api/v1/events",
            "read",
            index,
            "What happens, as it happens",
            query,
            media=(STREAM,),
            streams=True,
            answers={200: Page[Event]},
        )
    ]
