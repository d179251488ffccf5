"""Whether a request is let in: who makes it, how often they ask, what their role and scopes carry."""

from __future__ import annotations

from aiohttp import web

from ingestd.access.roles import Actor, Via
from ingestd.access.scopes import area_of
from ingestd.admin.identity import Identity
from ingestd.admin.limits import Limits
from ingestd.admin.problems import Unauthorized
from ingestd.admin.routes import Route
from ingestd.admin.settings import AdminSettings
from ingestd.errors import Refused

ACTOR = web.RequestKey("actor", Actor)
MACHINE_PATHS = ("/api/", "/health", "/metrics", "/static/")


class Admission:
    """Lets requests in to routes.

    Args:
        identity: says who they are.
        limits: say how often they may.
    """

    def __init__(self, identity: Identity, limits: Limits) -> None:
        self._identity = identity
        self._limits = limits

    def renew(self, settings: AdminSettings) -> bool:
        """Take another token and other rates; returns whether the configuration's token is another one."""
        self._limits.renew(settings.rate, settings.trigger_rate)
        return self._identity.renew(settings)

    async def admit(self, request: web.Request, route: Route, correlation_id: str) -> Actor:
        """The one who makes a request that may be answered.

        Raises:
            Unauthorized: it takes a token, or the one that came is not valid.
            Refused: the token, or whoever sits at this machine, may not do this.
            OverLimit: they ask more often than they may.
        """
        via: Via = "api" if request.path.startswith(MACHINE_PATHS) else "page"
        if route.permission == "public":
            # Nobody is asked who they are: a probe must be answered whatever it sends and whatever is away.
            return Actor("anonymous", "anonymous", via, correlation_id, address=self._identity.peers.address(request))
        self._identity.check_way(request)
        actor = request[ACTOR] = await self._identity.actor(request, via, correlation_id)
        self._limits.check(actor, request.method, route.path)
        self._check_permission(request, route, actor)
        return actor

    def _check_permission(self, request: web.Request, route: Route, actor: Actor) -> None:
        if not actor.may(route.permission):
            if "Authorization" not in request.headers and (actor.role == "anonymous" or self._identity.takes_token):
                raise Unauthorized("this needs a token that may do it", hint="send it as Authorization: Bearer TOKEN")
            raise Refused(
                f"{'an' if actor.role[0] in 'ao' else 'a'} {actor.role} may not do this; it needs the permission to {route.permission}",
                hint="`ingestd token create` makes a token with another role"
                if self._identity.takes_token
                else "ask as the daemon's own user or root, or with a token",
            )
        area = area_of(route.path)
        if not actor.reaches(area, route.permission):
            scopes = ", ".join(sorted(actor.scopes))
            raise Refused(
                f"this token is limited to {scopes}; this needs the scope {area}", hint="`ingestd token create --scope` sets scopes"
            )
