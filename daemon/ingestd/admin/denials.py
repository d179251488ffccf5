"""What was asked for in vain, in the audit log: the first of a kind at once, those like it a minute together.

Whoever knocks ten thousand times must not fill the log with it, nor find the daemon waiting for the database each time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ingestd.access.roles import Actor, Via
from ingestd.access.store import record_audit
from ingestd.admin.admission import ACTOR, MACHINE_PATHS
from ingestd.admin.limits import OverLimit
from ingestd.admin.peers import Peers
from ingestd.admin.problems import Unauthorized, sayable
from ingestd.errors import Refused
from ingestd.events import AccessDenied, Bus
from ingestd.logging import without_secrets
from ingestd.postgres.pool import Database

TOGETHER_S = 60.0
MOST_KINDS = 60  # rows a minute; whatever is beyond them is told by its number alone
LONGEST = 200


@dataclass
class _Knock:
    """Requests that were refused alike, since the last row about them."""

    actor: Actor
    action: str
    path: str
    detail: dict[str, Any]
    times: int = 1
    due: bool = True
    since: float = field(default_factory=time.monotonic)


class Denials:
    """Collects refused requests and writes them down.

    Args:
        db: where the audit log is.
        bus: told of each kind once a minute.
        peers: tell where a request comes from.
    """

    def __init__(self, db: Database, bus: Bus, peers: Peers) -> None:
        self._db = db
        self._bus = bus
        self._peers = peers
        self._knocks: dict[tuple[str, ...], _Knock] = {}

    def note(self, request: web.Request, error: Exception, correlation_id: str) -> None:
        """Remember a refusal; what is not one is none of our business."""
        if not isinstance(error, Unauthorized | Refused | OverLimit):
            return
        actor = request.get(ACTOR) or self._stranger(request, correlation_id)
        resource = request.match_info.route.resource
        action = f"{request.method[:10]} {resource.canonical if resource else 'unknown path'}"
        key = (actor.name, actor.address or "", action, error.slug)
        if key not in self._knocks and len(self._knocks) >= MOST_KINDS:
            key = ("", "", "", "")
            actor, action = Actor("several", "anonymous", actor.via), "several requests"
        if (known := self._knocks.get(key)) is not None:
            known.times += 1
            return
        # A path may hold a token by mistake, and more people may read this than may use that.
        path, why = (without_secrets(sayable(text))[:LONGEST] for text in (request.path, error.message))
        self._knocks[key] = _Knock(actor, action, path, {"status": error.http_status, "why": why})
        self._bus.emit(AccessDenied(actor.name, actor.address or "", action, why))

    def _stranger(self, request: web.Request, correlation_id: str) -> Actor:
        via: Via = "api" if request.path.startswith(MACHINE_PATHS) else "page"
        return Actor("anonymous", "anonymous", via, correlation_id, address=self._peers.address(request))

    async def poll(self) -> float:
        """Write what is due: new kinds at once, the others when their minute is over."""
        now = time.monotonic()
        for key, knock in list(self._knocks.items()):
            over = now - knock.since >= TOGETHER_S
            if knock.due or (over and knock.times):
                await self._write(knock)
            if over and not knock.times:
                del self._knocks[key]
            elif over:
                knock.since = now
        return 1.0

    async def _write(self, knock: _Knock) -> None:
        times, first = knock.times, knock.due
        # Before it is written: what comes meanwhile belongs to the next row. A failure only makes this row come later.
        knock.times, knock.due = 0, False
        try:
            async with self._db.services() as conn:
                detail = knock.detail if first and times == 1 else knock.detail | {"times": times}
                await record_audit(conn, knock.actor, knock.action, "request", knock.path, detail, outcome="denied")
        except BaseException:
            knock.times, knock.due = knock.times + times, first
            raise
