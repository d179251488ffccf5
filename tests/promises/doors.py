"""Every door of the admin server, taken from its registry, and whether anything behind them has changed."""

from __future__ import annotations

import re

import asyncpg

from ingestd.access.roles import Actor
from ingestd.admin.routes import Route
from ingestd.admin.server import build
from ingestd.admin.settings import AdminSettings
from ingestd.app.definitions import definitions
from ingestd.app.settings import Settings
from ingestd.app.successes import successes
from ingestd.errors import NotFound
from tests.admin.conftest import Open, Site

PARAMETER = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
# What a request may change that is refused: the log of who was refused, and when a token was seen last.
TABLES = """
select c.relname from pg_class c where c.relnamespace = 'ingestd'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
and c.relname not in ('audit', 'token') order by 1"""
DIGEST = "select count(*), md5(coalesce(string_agg(t::text, ',' order by t::text), '')) from ingestd.{} t"


async def everything(open_site: Open, *, behind_proxy: bool = False) -> Site:
    """A server with all that a daemon gives it, and no limit on how often one may ask.

    Args:
        behind_proxy: nobody is taken for somebody on this machine.
    """

    async def unknown(_conn: asyncpg.Connection, _actor: Actor, name: str) -> int:
        raise NotFound(f'there is no workflow "{name}"')

    state = {"definitions": definitions(Settings), "successes": successes, "start_workflow": unknown}
    proxy = {"behind_proxy": True, "public_url": "https://ingestd.example.com"} if behind_proxy else {}
    site = await open_site(state=state, rate="", trigger_rate="", **proxy)
    site.url = f"http://127.0.0.1:{site.server.port}"
    return site


def doors(site: Site) -> list[Route]:
    """All routes of a server."""
    app_routes = build(site.state, AdminSettings(), 1)
    app_routes[1].close()
    found = list(app_routes[2])
    assert len(found) > 60
    return found


def filled(path: str, value: str = "1") -> str:
    """A route's path with a value in place of each parameter."""
    return PARAMETER.sub(lambda _: value, path)


async def digest(conn: asyncpg.Connection) -> dict[str, tuple[int, str]]:
    """What all our tables hold."""
    names = [row["relname"] for row in await conn.fetch(TABLES)]
    assert len(names) > 10
    return {name: tuple(await conn.fetchrow(DIGEST.format(name)) or ()) for name in names}  # type: ignore[misc]
