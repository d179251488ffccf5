"""`/api/v1/audit`."""

from __future__ import annotations

from aiohttp import web

from ingestd.access.store import AuditFilter, find_audit
from ingestd.admin.answers.base import Page
from ingestd.admin.answers.data import AuditRow
from ingestd.admin.routes import Call, Route, answer
from ingestd.admin.shapes import masked, read_moment, read_word, with_text_ids

OUTCOMES = ("done", "denied")
WORDS = ("object_type", "object_id", "actor", "action", "correlation_id")


async def index(call: Call) -> web.Response:
    """Who did what, and what was refused, newest first."""
    limit, cursors = call.limit(), await call.cursors()
    which = AuditFilter(
        **{name: call.query.get(name) for name in WORDS},
        outcome=read_word(call.query, "outcome", OUTCOMES),
        since=read_moment(call.query, "from"),
        until=read_moment(call.query, "to"),
        before_id=cursors.read_id() or call.before,
    )
    async with call.reading() as conn:
        rows = [dict(row) for row in await find_audit(conn, which, limit + 1)]
    return answer(cursors.page(rows, limit, lambda row: masked(with_text_ids(row, ("id", "token_id")))))


def routes() -> list[Route]:
    """This resource's routes."""
    query = (*WORDS, "outcome", "from", "to", "before", "limit", "cursor")
    return [Route("GET", "/api/v1/audit", "read", index, "The audit log, newest first", query, answers={200: Page[AuditRow]})]
